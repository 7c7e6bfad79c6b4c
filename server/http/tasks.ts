import { ownerOf, type Principal } from '../auth/auth.ts';
import type { AddressRule } from '../callbacks/address.ts';
import { findEvent } from '../db/events.ts';
import type { LastAnswer } from '../db/lease-tasks.ts';
import type { Database } from '../db/open.ts';
import { explainTask, listTasks, readAttempts, readTasks, type TaskStatus } from '../db/read-tasks.ts';
import { answerHeaders } from '../protocol/answer-headers.ts';
import { badRequest, notFound } from '../protocol/errors.ts';
import { parseBatchId, parseTaskId } from '../protocol/ids.ts';
import { elementTexts, memberTexts } from '../protocol/json.ts';
import {
  completeBody,
  completesBody,
  deadQuery,
  heartbeatBody,
  type ListQuery,
  listQuery,
  priorityBody,
  purgeQuery,
  putBody,
  putsBody,
  type ReleaseBody,
  releaseBody,
  replayBody,
  takeBody,
} from '../protocol/tasks.ts';
import { newTask } from '../tasks/new-task.ts';
import type { Tasks } from '../tasks/tasks.ts';
import { answerBlocking, answerStreaming, putAttended, secondsUntil } from './answers.ts';
import { checkCallback } from './check-callback.ts';
import { hangUp } from './give-up.ts';
import { keyOf } from './idempotency-key.ts';
import { type Route, route } from './route.ts';
import { statusJson, takenJson } from './task-json.ts';

const MAX_INT = 2 ** 31 - 1;

export function taskRoutes(deps: { db: Database; tasks: Tasks; rule: AddressRule; stopping: AbortSignal }): Route[] {
  const { db, tasks, rule, stopping } = deps;
  stopping.addEventListener('abort', tasks.wakeOver);

  /** The task, if the caller may see it: a client only its tenant's. Throws 404. */
  const find = async (taskId: string | undefined, principal: Principal): Promise<TaskStatus> => {
    const [task] = await readTasks(db, [idOf(taskId)]);
    if (!task || (principal.role === 'client' && task.tenant_id !== principal.tenantId))
      throw notFound(`unknown task ${taskId}`);
    return task;
  };

  const list = async (query: ListQuery, principal: Principal) => {
    const after = query.after === undefined ? null : parseTaskId(query.after);
    if (after === undefined)
      throw badRequest('after: is not a task id', [{ path: 'after', message: 'is not a task id' }]);
    const ids = await listTasks(db, {
      tenantId: ownerOf(principal),
      queue: query.queue ?? null,
      level: query.level ?? null,
      status: query.status ?? null,
      batchId: query.batch_id === undefined ? null : (parseBatchId(query.batch_id) ?? '0'),
      after,
      limit: query.limit + 1,
      ascending: query.order === 'asc',
    });
    const rows = await readTasks(db, ids.slice(0, query.limit));
    const texts = rows.map((row) => statusJson(row));
    return { text: `{"data":[${texts.join(',')}],"has_more":${ids.length > rows.length}}` };
  };

  return [
    route({
      method: 'post',
      path: '/v1/queue/put',
      summary: 'Put a task',
      roles: ['client'],
      body: putBody,
      async handle({ body, text, principal, req, res }) {
        checkCallback(rule, body);
        const key = keyOf(req);
        const task = newTask(body, text, principal, key);
        if (task.mode === 'callback') {
          const [put] = await tasks.put([task]);
          return { text: `{"code":200,"timestamp":${Date.now()},"data":"${put?.task_id}"}` };
        }
        const keyed = key !== undefined || body.idempotency_key != null;
        // The client of a stream can come back without a key, too.
        const put = await putAttended(db, tasks, task, keyed || task.mode === 'streaming');
        return task.mode === 'blocking' ? answerBlocking(tasks, put, res) : answerStreaming(tasks, put, 0, res);
      },
    }),
    route({
      method: 'post',
      path: '/v1/queue/puts',
      summary: 'Put up to 1,000 callback tasks, all or none',
      roles: ['client'],
      body: putsBody,
      async handle({ body, text, principal, req }) {
        const texts = elementTexts(memberTexts(text).get('tasks') as string);
        const key = keyOf(req);
        const group = body.tasks.map((put, index) => {
          checkCallback(rule, put, `tasks.${index}.`);
          // One key for the request stands for one a task, each of which holds for the whole body.
          return newTask(put, texts[index] as string, principal, key && `${key}\u001f${index}`, text);
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
        const worker = body.worker ? await tasks.workers.begin(body.worker, body.queues) : undefined;
        const drained = { text: '{}', headers: { 'X-TASKLANE-DRAIN': '1' } };
        if (worker?.isDraining()) {
          worker.end();
          return drained;
        }
        const taking = tasks.take(
          {
            lanes: body.queues,
            size: body.size,
            strategy: body.strategy,
            endpoint: body.endpoint ?? null,
            minAgeSeconds: body.min_age_seconds,
            worker: body.worker?.id ?? null,
            leaseSeconds: body.lease_seconds ?? (body.process_timeout || null),
            maxAttempts: attemptsOf(body.process_max_retries),
            waitSeconds: body.wait,
          },
          signal,
          () => stopping.aborted || worker?.isDraining() === true,
        );
        const taken = await taking.finally(() => worker?.end());
        if (taken.length === 0 && worker?.isDraining()) return drained;
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
      path: '/v1/queue/heartbeat',
      summary: 'Extend the leases of up to 10,000 tasks, learn which are lost or cancelled, and say how the worker is',
      roles: ['worker'],
      body: heartbeatBody,
      async handle({ body, res }) {
        const told = { extended: [] as string[], lost: [] as string[], cancelled: [] as string[] };
        const known = body.tasks.flatMap(({ task_id: taskId, attempt }) => {
          const id = parseTaskId(taskId);
          if (id === undefined) told.lost.push(taskId);
          return id === undefined ? [] : [{ taskId, id, attempt: attempt ?? null }];
        });
        const leaseSeconds = body.lease_seconds ?? null;
        const call = {
          tasks: known.map(({ id, attempt }) => ({ id, attempt, leaseSeconds })),
          worker: body.worker?.id ?? null,
          waitSeconds: told.lost.length > 0 ? 0 : body.wait,
        };
        const [{ rows, others }] = await Promise.all([
          tasks.heartbeat(call, hangUp(res), () => stopping.aborted),
          body.worker && tasks.workers.says(body.worker),
        ]);
        for (const [index, { verdict }] of rows.entries()) told[verdict].push(known[index]?.taskId as string);
        for (const [taskId, verdict] of others) told[verdict].push(taskId);
        return { json: told };
      },
    }),
    route({
      method: 'post',
      path: '/v1/queue/:id/release',
      summary: 'Give a running task back, to be tried again later',
      roles: ['worker'],
      body: releaseBody,
      async handle({ params, body, text }) {
        const refused = await tasks.release({
          id: idOf(params.id),
          attempt: body.attempt ?? null,
          delaySeconds: body.delay_seconds ?? null,
          reason: body.reason || null,
          begun: body.begun,
          answer: body.answer ? lastAnswerOf(body.answer, memberTexts(text).get('answer') as string) : null,
        });
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
        await tasks.end.cancel(idOf(params.id), ownerOf(principal));
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
        return answerStreaming(tasks, { ...task, secondsLeft: secondsUntil(task.expires_at) }, after, res);
      },
    }),
    route({
      method: 'get',
      path: '/v1/queue/:id',
      summary: 'A task with its state and, once finished, its result',
      roles: ['client', 'worker'],
      async handle({ params, principal }) {
        const task = await find(params.id, principal);
        return { text: statusJson(task, await readAttempts(db, task.id)) };
      },
    }),
    route({
      method: 'get',
      path: '/v1/queue/:id/explain',
      summary: 'Why a task is where it is',
      roles: ['client', 'worker'],
      async handle({ params, principal }) {
        const explained = await explainTask(db, idOf(params.id), ownerOf(principal));
        if (!explained) throw notFound(`unknown task ${params.id}`);
        return { json: explained };
      },
    }),
    route({
      method: 'patch',
      path: '/v1/queue/TASK-:number',
      summary: 'Change the priority of a task that waits or is deferred',
      roles: ['client'],
      body: priorityBody,
      async handle({ params, body, principal }) {
        const id = idOf(`TASK-${params.number}`);
        await tasks.setPriority(id, ownerOf(principal), body.priority);
        const task = await find(`TASK-${params.number}`, principal);
        return { text: statusJson(task, await readAttempts(db, id)) };
      },
    }),
    route({
      method: 'post',
      path: '/v1/queue/:id/replay',
      summary: 'Give a dead task a new life',
      roles: ['client'],
      async handle({ params, principal }) {
        await tasks.replay(idOf(params.id), ownerOf(principal));
        return { json: params.id };
      },
    }),
    route({
      method: 'get',
      path: '/v1/dead',
      summary: 'Dead tasks, newest first',
      roles: ['client'],
      query: deadQuery,
      handle: ({ query, principal }) => list({ ...query, status: 'dead' }, principal),
    }),
    route({
      method: 'post',
      path: '/v1/dead/replay',
      summary: 'Give dead tasks a new life, the oldest first',
      roles: ['client'],
      body: replayBody,
      async handle({ body, principal }) {
        const limit = body.limit ?? Number.POSITIVE_INFINITY;
        return { json: { replayed: await tasks.replayDead(ownerOf(principal), body.queue, limit) } };
      },
    }),
    route({
      method: 'delete',
      path: '/v1/dead',
      summary: 'Remove dead tasks for good',
      roles: ['client'],
      query: purgeQuery,
      async handle({ query, principal }) {
        await tasks.purgeDead(ownerOf(principal), query.queue);
        return { status: 204 };
      },
    }),
    route({
      method: 'get',
      path: '/v1/tasks',
      summary: 'Tasks, newest first',
      roles: ['client', 'worker'],
      query: listQuery,
      handle: ({ query, principal }) => list(query, principal),
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

function lastAnswerOf(answer: NonNullable<ReleaseBody['answer']>, text: string): LastAnswer {
  const headers = answerHeaders(answer.headers ?? {});
  return {
    statusCode: answer.status_code,
    requestId: answer.request_id || null,
    body: memberTexts(text).get('body') ?? 'null',
    headers: headers ? JSON.stringify(headers) : null,
  };
}

/** Bella's process_max_retries: 0 none, -1 no limit. */
function attemptsOf(retries: number | null | undefined): number | null {
  if (retries == null) return null;
  return retries < 0 ? MAX_INT : Math.min(retries + 1, MAX_INT);
}

/** Throws 404: what does not parse is the name of no task. */
function idOf(taskId: string | undefined): string {
  const id = taskId === undefined ? undefined : parseTaskId(taskId);
  if (id === undefined) throw notFound(`unknown task ${taskId}`);
  return id;
}
