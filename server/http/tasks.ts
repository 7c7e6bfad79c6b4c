import type { Principal } from '../auth/auth.ts';
import type { AddressRule } from '../callbacks/address.ts';
import { findEvent } from '../db/events.ts';
import type { Database } from '../db/open.ts';
import { listTasks, readTasks, type TaskStatus } from '../db/read-tasks.ts';
import { badRequest, notFound } from '../protocol/errors.ts';
import { parseTaskId } from '../protocol/ids.ts';
import { elementTexts, memberTexts } from '../protocol/json.ts';
import { completeBody, completesBody, listQuery, putBody, putsBody, takeBody } from '../protocol/tasks.ts';
import { newTask } from '../tasks/new-task.ts';
import type { Tasks } from '../tasks/tasks.ts';
import { answerBlocking, answerStreaming } from './answers.ts';
import { checkCallback } from './check-callback.ts';
import { type Route, route } from './route.ts';
import { hangUp } from './sse.ts';
import { statusJson, takenJson } from './task-json.ts';

export function taskRoutes(deps: { db: Database; tasks: Tasks; rule: AddressRule; stopping: AbortSignal }): Route[] {
  const { db, tasks, rule, stopping } = deps;

  /** The task, if the caller may see it: a client only its tenant's. Throws 404. */
  const find = async (taskId: string | undefined, principal: Principal): Promise<TaskStatus> => {
    const [task] = await readTasks(db, [idOf(taskId)]);
    if (!task || (principal.role === 'client' && task.tenant_id !== principal.tenantId))
      throw notFound(`unknown task ${taskId}`);
    return task;
  };

  return [
    route({
      method: 'post',
      path: '/v1/queue/put',
      summary: 'Put a task',
      roles: ['client'],
      body: putBody,
      async handle({ body, text, principal, res }) {
        checkCallback(rule, body);
        const task = newTask(body, text, principal);
        const [put] = await tasks.put([task]);
        if (!put) throw new Error('a put gave no task');
        if (task.mode === 'blocking') return answerBlocking(tasks, put, task.timeout, res);
        if (task.mode === 'streaming') {
          tasks.readers.lookAfter(put.id);
          return answerStreaming(tasks, { ...put, secondsLeft: task.timeout }, 0, res);
        }
        return { text: `{"code":200,"timestamp":${Date.now()},"data":"${put.task_id}"}` };
      },
    }),
    route({
      method: 'post',
      path: '/v1/queue/puts',
      summary: 'Put up to 1,000 callback tasks, all or none',
      roles: ['client'],
      body: putsBody,
      async handle({ body, text, principal }) {
        const texts = elementTexts(memberTexts(text).get('tasks') as string);
        const group = body.tasks.map((put, index) => {
          checkCallback(rule, put, `tasks.${index}.`);
          return newTask(put, texts[index] as string, principal);
        });
        const rows = await tasks.put(group);
        return { json: { data: rows.map((row) => row.task_id) } };
      },
    }),
    route({
      method: 'post',
      path: '/v1/queue/take',
      summary: 'Take tasks under a lease',
      roles: ['worker'],
      body: takeBody,
      async handle({ body, res }) {
        const signal = hangUp(res);
        const taken = await tasks.take(
          {
            lanes: body.queues,
            size: body.size,
            strategy: body.strategy,
            endpoint: body.endpoint ?? null,
            minAgeSeconds: body.min_age_seconds,
            worker: body.worker?.id ?? null,
            leaseSeconds: body.lease_seconds ?? (body.process_timeout || null),
            waitSeconds: body.wait,
          },
          body.wait > 0 ? AbortSignal.any([signal, stopping]) : signal,
        );
        if (taken.length > 0) {
          if (signal.aborted) void tasks.giveBack(taken);
          else signal.addEventListener('abort', () => void tasks.giveBack(taken), { once: true });
        }
        return { text: takenJson(taken, body.queues) };
      },
    }),
    route({
      method: 'post',
      path: '/v1/queue/complete',
      summary: 'Answer up to 1,000 tasks, each on its own',
      roles: ['worker'],
      body: completesBody,
      async handle({ body, text }) {
        const texts = elementTexts(memberTexts(text).get('results') as string);
        const data = await Promise.all(
          body.results.map(async (result, index) => {
            const id = parseTaskId(result.task_id);
            const refused =
              id === undefined
                ? notFound('unknown task')
                : await tasks.end.complete(answerOf(id, result, texts[index] as string));
            return { task_id: result.task_id, ok: refused === undefined, ...(refused && { message: refused.message }) };
          }),
        );
        return { json: { data } };
      },
    }),
    route({
      method: 'post',
      path: '/v1/queue/:id/complete',
      summary: 'Answer a task',
      roles: ['worker'],
      body: completeBody,
      async handle({ body, text, params }) {
        const refused = await tasks.end.complete(answerOf(idOf(params.id), body, text));
        if (refused) throw refused;
        return { json: params.id };
      },
    }),
    route({
      method: 'post',
      path: '/v1/queue/:id/cancel',
      summary: 'Withdraw a task that has not ended',
      roles: ['client'],
      async handle({ params, principal }) {
        await tasks.end.cancel(idOf(params.id), principal.role === 'client' ? principal.tenantId : null);
        return { status: 202, json: params.id };
      },
    }),
    route({
      method: 'get',
      path: '/v1/queue/:id/events',
      summary: "A task's events as a stream; Last-Event-ID resumes",
      roles: ['client', 'worker'],
      async handle({ params, principal, req, res }) {
        const task = await find(params.id, principal);
        const last = req.headers['last-event-id'];
        const after = typeof last === 'string' ? await findEvent(db, task.id, last) : 0;
        return answerStreaming(tasks, { ...task, secondsLeft: (task.expires_at - Date.now()) / 1000 }, after, res);
      },
    }),
    route({
      method: 'get',
      path: '/v1/queue/:id',
      summary: 'A task with its state and, once finished, its result',
      roles: ['client', 'worker'],
      async handle({ params, principal }) {
        return { text: statusJson(await find(params.id, principal)) };
      },
    }),
    route({
      method: 'get',
      path: '/v1/tasks',
      summary: 'Tasks, newest first',
      roles: ['client', 'worker'],
      query: listQuery,
      async handle({ query, principal }) {
        // No task belongs to a batch that does not exist.
        if (query.batch_id !== undefined) return { json: { data: [], has_more: false } };
        const after = query.after === undefined ? null : parseTaskId(query.after);
        if (after === undefined)
          throw badRequest('after: is not a task id', [{ path: 'after', message: 'is not a task id' }]);
        const ids = await listTasks(db, {
          tenantId: principal.role === 'client' ? principal.tenantId : null,
          queue: query.queue ?? null,
          level: query.level ?? null,
          status: query.status ?? null,
          after,
          limit: query.limit + 1,
          ascending: query.order === 'asc',
        });
        const rows = await readTasks(db, ids.slice(0, query.limit));
        return { text: `{"data":[${rows.map(statusJson).join(',')}],"has_more":${ids.length > rows.length}}` };
      },
    }),
  ];
}

function answerOf(
  id: string,
  result: { status_code: number; request_id?: string | null | undefined; attempt?: number | null | undefined },
  text: string,
) {
  return {
    id,
    attempt: result.attempt ?? null,
    statusCode: result.status_code,
    requestId: result.request_id ?? null,
    body: memberTexts(text).get('body') as string,
  };
}

/** Throws 404: what does not parse is the name of no task. */
function idOf(taskId: string | undefined): string {
  const id = taskId === undefined ? undefined : parseTaskId(taskId);
  if (id === undefined) throw notFound(`unknown task ${taskId}`);
  return id;
}
