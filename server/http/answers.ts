import type { Response } from 'express';
import type { PutTask } from '../db/put-tasks.ts';
import { TasklaneError } from '../protocol/errors.ts';
import { minifyJson } from '../protocol/json.ts';
import { expireAt } from '../tasks/readers.ts';
import type { Tasks } from '../tasks/tasks.ts';
import { errorBody, type Reply } from './route.ts';
import { hangUp, openSse } from './sse.ts';

const UNANSWERED: Record<string, string> = {
  expired: 'the deadline has passed',
  cancelled: 'the task was cancelled',
  dead: 'no attempts are left',
};

/**
 * Waits with the client for its task's answer. The task expires at its deadline, and is cancelled when the client hangs up: at once or, under
 * an idempotency key, when nobody has come back for it.
 */
export async function answerBlocking(
  tasks: Tasks,
  put: PutTask & { secondsLeft: number; keyed: boolean },
  res: Response,
): Promise<Reply> {
  const leave = put.keyed
    ? tasks.readers.arrive(put.id, put.secondsLeft)
    : expireAt(tasks.end, put.id, put.secondsLeft);
  const how = await tasks.untilEnd(put.id, hangUp(res), put.state === 'repeated');
  leave(how !== undefined);
  if (!how) {
    // Refused when it has ended meanwhile, which is as good.
    if (!put.keyed) await tasks.end.cancel(put.id, null).catch(() => undefined);
    return undefined;
  }
  const headers = { 'X-TASK-ID': put.task_id };
  if (how.body !== null) return { status: how.status_code, headers, text: how.body };
  const error = new TasklaneError(how.status_code, UNANSWERED[how.outcome] ?? how.outcome);
  return { status: error.status, headers, json: errorBody(error) };
}

/** Sends a task's events after number `after` as they come, and at last how it ended. */
export async function answerStreaming(
  tasks: Tasks,
  task: { id: string; task_id: string; secondsLeft: number },
  after: number,
  res: Response,
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
        const { outcome, envelope } = news.ending;
        const answered = outcome === 'succeeded' || outcome === 'failed';
        await sse.send({ name: answered ? 'completion' : 'error', data: minifyJson(envelope) });
      }
    }
  } finally {
    leave(ended);
    sse.end();
  }
}
