import type { ServerResponse } from 'node:http';
import type { Database } from '../db/open.ts';
import type { NewTask, PutTask } from '../db/put-tasks.ts';
import { readTasks } from '../db/read-tasks.ts';
import { notFound, TasklaneError } from '../protocol/errors.ts';
import { minifyJson } from '../protocol/json.ts';
import type { Tasks } from '../tasks/tasks.ts';
import type { Answered } from '../tasks/watchers.ts';
import { finalHeaders } from './final-headers.ts';
import { hangUp } from './give-up.ts';
import { errorReply, type Reply } from './route.ts';
import { openSse } from './sse.ts';

/** A task whose client waits for it; `resumable`: and may come back for it. */
export type Attended = PutTask & { secondsLeft: number; resumable: boolean };

/** Puts a task, or finds the one that its key has put. */
export async function putAttended(db: Database, tasks: Tasks, task: NewTask, resumable: boolean): Promise<Attended> {
  const [put] = await tasks.put([task]);
  if (!put) throw new Error('a put gave no task');
  if (put.state !== 'repeated') {
    if (resumable) tasks.readers.lookAfter(put.id);
    return { ...put, secondsLeft: task.timeout, resumable };
  }
  const [there] = await readTasks(db, [put.id]);
  if (!there) throw notFound(`unknown task ${put.task_id}`);
  return { ...put, secondsLeft: secondsUntil(there.expires_at), resumable };
}

export const secondsUntil = (time: number) => (time - Date.now()) / 1000;

/** Waits with the client for its task's answer. */
export async function answerBlocking(tasks: Tasks, put: Attended, res: ServerResponse): Promise<Reply> {
  const leave = tasks.readers.stay(put);
  const how = await tasks.untilEnd(put.id, hangUp(res), put.state === 'repeated');
  leave(how !== undefined);
  return how && replyOf(res, put.task_id, how);
}

/** The worker's answer to the letter or, where there will be none, why. */
export function replyOf(res: ServerResponse, taskId: string, how: Answered): NonNullable<Reply> {
  if (how.body !== null)
    return { status: how.status_code, headers: { 'X-TASK-ID': taskId, ...finalHeaders(res, how) }, text: how.body };
  const reply = errorReply(res, unanswered(how));
  return { ...reply, headers: { 'X-TASK-ID': taskId, ...reply.headers } };
}

const UNANSWERED: Record<string, readonly [message: string, code: string]> = {
  expired: ['the deadline has passed', 'request_timeout'],
  cancelled: ['the task was cancelled', 'request_cancelled'],
  dead: ['no attempts are left', 'attempts_exhausted'],
};

/** Why a task has no answer. */
export function unanswered({ outcome, status_code: status }: Answered): TasklaneError {
  const [message, code] = UNANSWERED[outcome] ?? [outcome, null];
  return new TasklaneError(status, message, { openai: { param: null, code } });
}

/** Sends a task's events after number `after` as they come, and at last how it ended. */
export async function answerStreaming(
  tasks: Tasks,
  task: { id: string; task_id: string; secondsLeft: number },
  after: number,
  res: ServerResponse,
): Promise<undefined> {
  const signal = hangUp(res);
  const leave = tasks.readers.arrive(task.id, task.secondsLeft);
  const sse = openSse(res, { 'X-TASK-ID': task.task_id });
  let ended = false;
  try {
    for await (const news of tasks.follow(task.id, after, signal)) {
      if ('event' in news) {
        const { event_id: eventId, seq, name, data } = news.event;
        await sse.send({ id: eventId ?? String(seq), name, data: minifyJson(data ?? 'null') });
      } else {
        ended = true;
        const { body, envelope } = news.ending;
        await sse.send({ name: body === null ? 'error' : 'completion', data: minifyJson(envelope) });
      }
    }
  } finally {
    leave(ended);
    sse.end();
  }
}
