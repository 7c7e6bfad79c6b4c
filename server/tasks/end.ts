import { createCoalescer } from '../db/coalesce.ts';
import {
  type Answer,
  type Cancelled,
  type Completed,
  cancelTasks,
  clearLane,
  completeTasks,
  type EndedTask,
  expireTasks,
} from '../db/end-tasks.ts';
import type { Database } from '../db/open.ts';
import { conflict, notFound } from '../protocol/errors.ts';
import type { Bus } from './bus.ts';
import type { Feed } from './feed.ts';
import type { Pollers } from './pollers.ts';
import type { Answered, Watchers } from './watchers.ts';

const CLEAR_AT_ONCE = 1000;

export function createEnd(options: {
  db: Database;
  bus: Bus;
  pollers: Pollers;
  watchers: Watchers;
  feed: Feed;
  /** There are callbacks to deliver. */
  onCallbacks(): void;
}) {
  const { db, bus, pollers, watchers, feed, onCallbacks } = options;

  /** Tells everyone who waits for these tasks, here and on other servers. */
  const announce = (ended: readonly EndedTask[], how: (index: number) => Answered) => {
    let callbacks = false;
    for (const [index, task] of ended.entries()) {
      watchers.ended(task.id, how(index));
      // A stream's readers can be on any server, a blocking client is on its own.
      if (task.mode === 'streaming' || (task.mode === 'blocking' && task.instance_id !== bus.instanceId))
        bus.ended(task.id);
      pollers.free(task.lane);
      bus.free(task.lane);
      callbacks ||= task.has_callback;
    }
    if (callbacks) onCallbacks();
    if (ended.length > 0) feed.rouse();
  };
  const announceUnanswered = (ended: readonly EndedTask[], outcome: 'cancelled' | 'expired') =>
    announce(ended, () => ({ outcome, status_code: outcome === 'expired' ? 408 : 499, body: null }));

  const complete = createCoalescer<Answer, Completed>({
    bytes: (answer) => answer.body.length,
    async run(answers) {
      const rows = await completeTasks(db, answers);
      const done = [...rows.entries()].filter(([, row]) => row.verdict === 'completed');
      announce(
        done.map(([, row]) => row),
        (index) => {
          const { statusCode, body } = answers[(done[index] as [number, Completed])[0]] as Answer;
          return { outcome: statusCode < 300 ? 'succeeded' : 'failed', status_code: statusCode, body };
        },
      );
      return rows;
    },
  });

  const cancel = createCoalescer<{ id: string; tenantId: number | null }, Cancelled>({
    async run(tasks) {
      const rows = await cancelTasks(db, tasks);
      announceUnanswered(
        rows.filter((row) => row.refusal === null),
        'cancelled',
      );
      return rows;
    },
  });

  const expire = createCoalescer<string, boolean>({
    async run(ids) {
      const rows = await expireTasks(db, ids);
      announceUnanswered(rows, 'expired');
      const ended = new Set(rows.map((row) => row.id));
      return ids.map((id) => ended.has(id));
    },
  });

  return {
    /** Why the task could not be completed, as an error; undefined when it was, now or by the same answer before. */
    async complete(answer: Answer): Promise<ReturnType<typeof conflict> | undefined> {
      const { verdict } = await complete(answer);
      if (verdict === 'completed' || verdict === 'repeated') return undefined;
      return refusal(verdict, 'completed', answer.attempt);
    },

    /** Withdraws a task; a tenant, where given, must own it. Throws 404 and 409. */
    async cancel(id: string, tenantId: number | null): Promise<void> {
      const row = await cancel({ id, tenantId });
      if (row.refusal !== null) throw refusal(row.refusal, 'cancelled', null);
    },

    /** Whether this ended the task: only one whose deadline has passed, and that has not ended. */
    expire,
    /** Tasks were found expired and ended by a sweep. */
    swept: (ended: readonly EndedTask[]) => announceUnanswered(ended, 'expired'),

    /** Cancels all that waits in a lane; gives how many. */
    async clear(lane: string): Promise<number> {
      for (let cleared = 0; ; ) {
        const ended = await clearLane(db, lane, CLEAR_AT_ONCE);
        announceUnanswered(ended, 'cancelled');
        cleared += ended.length;
        if (ended.length < CLEAR_AT_ONCE) return cleared;
      }
    },
  };
}
export type End = ReturnType<typeof createEnd>;

/** Why a call that names a task was refused: the task is unknown, or in a state that forbids it. */
export function refusal(state: string, verb: string, attempt: number | null) {
  if (state === 'unknown') return notFound('unknown task');
  if (state === 'running' && attempt !== null)
    return conflict(`the task is running under another attempt than ${attempt}`);
  return conflict(`the task is ${state} and can not be ${verb}`);
}
