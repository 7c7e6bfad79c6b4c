import { ApiError } from '../errors.ts';
import { backoff, type Http, sleep } from '../http.ts';
import type { Strategy, Task } from '../types.ts';
import type { Changes } from './changes.ts';
import type { Log } from './log.ts';
import type { WorkerSays } from './report.ts';
import { tasksIn } from './taken.ts';

/** What a take waits for a task, and a worker without room for some. */
const WAIT_SECONDS = 30;
const MAX_SIZE = 1000;
/** Room may come by itself: a model server that is back. */
const LOOK_AGAIN_MS = 250;
/** An answer without tasks that came at once: the server is stopping, or the worker is to drain. */
const EMPTY_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 5000;

export type Take = {
  lanes: readonly string[];
  /** Looked at before, in a call of their own. */
  first?: readonly string[];
  strategy: Strategy;
  leaseSeconds: number;
  endpoint: string | undefined;
  /** Who takes, as it is now. */
  worker: () => WorkerSays;
};

/**
 * Takes from lanes, over and over, as many as there is room for; one take at a time. `take` gets the tasks in the order of the lanes, and by how many
 * milliseconds the server's clock is ahead of ours. Takes nothing more when `signal` aborts, and ends when its take is back or `hangUp` aborts.
 */
export async function takeFrom(
  http: Http,
  what: Take,
  on: {
    room: () => number;
    changes: Changes;
    take(tasks: Task[], ahead: number): void;
    log: Log;
    signal: AbortSignal;
    hangUp: AbortSignal;
  },
): Promise<void> {
  const { lanes, first = [], strategy, leaseSeconds, endpoint, worker } = what;
  const { signal } = on;
  let draining = false;
  let failed = 0;

  /** How many came; `ahead`, by how many milliseconds the server's clock is ahead of ours. */
  const take = async (from: readonly string[], size: number, wait: number): Promise<number> => {
    const reply = await http.open('POST', '/v1/queue/take', {
      body: { queues: from, size, strategy, wait, lease_seconds: leaseSeconds, endpoint, worker: worker() },
      signal: on.hangUp,
    });
    const maxAnswerBytes = Number(reply.headers.get('x-tasklane-max-answer-bytes')) || undefined;
    const tasks = tasksIn(await reply.text(), from, maxAnswerBytes);
    const date = Date.parse(reply.headers.get('date') ?? '');
    // The header tells whole seconds.
    const ahead = Math.abs(date - Date.now()) > 2000 ? date - Date.now() : 0;
    if (tasks.length > 0) on.take(tasks, ahead);
    const drained = reply.headers.has('x-tasklane-drain');
    if (drained !== draining) on.log(drained ? 'asked to drain: takes nothing more' : 'takes tasks again');
    draining = drained;
    return tasks.length;
  };

  while (!signal.aborted) {
    const size = Math.min(on.room(), MAX_SIZE);
    if (size < 1) {
      await on.changes.wait(LOOK_AGAIN_MS);
      continue;
    }
    const began = Date.now();
    try {
      const came = first.length > 0 ? await take(first, size, 0) : 0;
      if (came === 0 && (await take(lanes, size, WAIT_SECONDS)) === 0 && Date.now() - began < EMPTY_PAUSE_MS) {
        await sleep(EMPTY_PAUSE_MS, signal);
      }
      if (failed > 0) on.log(`takes from ${lanes.join(', ')} again`);
      failed = 0;
    } catch (error) {
      if (signal.aborted) return;
      const { message } = error as Error;
      if (failed === 0) on.log(`takes nothing from ${lanes.join(', ')}: ${message}`);
      const retryAfter = error instanceof ApiError ? (error.retryAfter ?? 0) * 1000 : 0;
      const pause = Math.min(Math.max(backoff(failed++), retryAfter), LONGEST_PAUSE_MS);
      await sleep(pause, signal).catch(() => undefined);
    }
  }
}
