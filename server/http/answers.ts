import type { Response } from 'express';
import type { PutTask } from '../db/put-tasks.ts';
import { TasklaneError } from '../protocol/errors.ts';
import { minifyJson } from '../protocol/json.ts';
import type { Tasks } from '../tasks/tasks.ts';
import { errorBody, type Reply } from './route.ts';
import { hangUp, openSse } from './sse.ts';

/** A dropped stream has this long to come back before its task is cancelled. */
const RESUME_MS = 10_000;
/** The database decides whether a deadline has passed; its clock is asked a little after ours says so. */
const CLOCK_SLACK_MS = 20;

const UNANSWERED: Record<string, string> = {
  expired: 'the deadline has passed',
  cancelled: 'the task was cancelled',
  dead: 'no attempts are left',
};

/** Waits with the client for its task's answer. The task expires at its deadline, and is cancelled when the client hangs up. */
export async function answerBlocking(tasks: Tasks, put: PutTask, timeout: number, res: Response): Promise<Reply> {
  const signal = hangUp(res);
  const stop = expireAt(tasks, put.id, timeout);
  const how = await tasks.untilEnd(put.id, signal);
  stop();
  if (!how) {
    await tasks.end.cancel(put.id, null).catch(ignoreEnded);
    return undefined;
  }
  const headers = { 'X-TASK-ID': put.task_id };
  if (how.body !== null) return { status: how.status_code, headers, text: how.body };
  const error = new TasklaneError(how.status_code, UNANSWERED[how.outcome] ?? how.outcome);
  return { status: error.status, headers, json: errorBody(error) };
}

/** How many readers each streaming task has in this process, so that the last one's leaving cancels it. */
export function createStreams(tasks: Tasks) {
  const readers = new Map<string, { count: number; leaving: NodeJS.Timeout | undefined; stop(): void }>();

  const arrive = (id: string) => {
    const there = readers.get(id);
    if (!there) return;
    there.count++;
    clearTimeout(there.leaving);
  };
  const leave = (id: string, ended: boolean) => {
    const there = readers.get(id);
    if (!there) return;
    there.count--;
    if (ended) {
      there.stop();
      readers.delete(id);
    } else if (there.count === 0) {
      there.leaving = setTimeout(() => {
        there.stop();
        readers.delete(id);
        void tasks.end.cancel(id, null).catch(ignoreEnded);
      }, RESUME_MS);
    }
  };

  /** Sends the task's events after number `after`, and at last how it ended. */
  const stream = async (task: { id: string; task_id: string }, after: number, res: Response): Promise<void> => {
    const signal = hangUp(res);
    const sse = openSse(res, { 'X-TASK-ID': task.task_id });
    let ended = false;
    arrive(task.id);
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
      leave(task.id, ended);
      sse.end();
    }
  };

  return {
    /** Streams a task that was put just now; this process looks after its deadline and its last reader. */
    async open(put: PutTask, timeout: number, res: Response): Promise<void> {
      readers.set(put.id, { count: 0, leaving: undefined, stop: expireAt(tasks, put.id, timeout) });
      await stream(put, 0, res);
    },
    stream,
  };
}
export type Streams = ReturnType<typeof createStreams>;

/** Ends the task when its time is over. Gives a function that calls it off. */
function expireAt(tasks: Tasks, id: string, timeout: number): () => void {
  let timer = setTimeout(expire, timeout * 1000 + CLOCK_SLACK_MS);
  let off = false;
  async function expire() {
    // Until the task has ended, in whatever way, its waiter is still there and needs this.
    await tasks.end.expire(id).catch(() => false);
    if (!off) timer = setTimeout(expire, 500);
  }
  return () => {
    off = true;
    clearTimeout(timer);
  };
}

function ignoreEnded(error: unknown): void {
  if (!(error instanceof TasklaneError)) throw error;
}
