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
import type { LastAnswer } from '../db/lease-tasks.ts';
import type { Database } from '../db/open.ts';
import { conflict, notFound } from '../protocol/errors.ts';
import { type Bus, isCrowd } from './bus.ts';
import type { Lanes } from './lanes.ts';
import type { Answered, Watchers } from './watchers.ts';

const CLEAR_AT_ONCE = 1000;
/** The statuses of tasks that ended without an answer. */
const UNANSWERED = { cancelled: 499, expired: 408, dead: 502 } as const;

export function createEnd(options: {
  db: Database;
  bus: Bus;
  lanes: Lanes;
  watchers: Watchers;
  /** There are callbacks to deliver. */
  onCallbacks(): void;
  /** Lines of batches ended. */
  onLines(): void;
}) {
  const { db, bus, lanes, watchers, onCallbacks, onLines } = options;

  /** Tells everyone who waits for these tasks, here and on other servers. */
  const announce = (ended: readonly EndedTask[], how: (index: number) => Answered) => {
    let callbacks = false;
    let lines = false;
    for (const [index, task] of ended.entries()) {
      watchers.ended(task.id, how(index));
      // A stream's readers can be on any server, a blocking client is on its own.
      const mayBeAwaited =
        task.mode === 'streaming' || (task.mode === 'blocking' && task.instance_id !== bus.instanceId);
      if (mayBeAwaited && !task.told) bus.ended(task.id);
      lanes.freed(task.lane, task.limited);
      callbacks ||= task.has_callback;
      lines ||= task.mode === 'batch';
    }
    if (callbacks) onCallbacks();
    if (lines) onLines();
  };
  const announceUnanswered = (ended: readonly EndedTask[], outcome: keyof typeof UNANSWERED) =>
    announce(ended, () => ({ outcome, status_code: UNANSWERED[outcome], body: null }));

  const complete = createCoalescer<Answer, Completed>({
    bytes: (answer) => answer.body.length,
    inHalves: () => !isCrowd(bus.others()),
    async run(answers) {
      const rows = await completeTasks(db, answers, bus.tellsWithCommit(answers.length) ? bus.instanceId : null);
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
    /** Tells everyone who waits for tasks that have just ended without an answer. */
    announceUnanswered,
    /** The same of dead tasks, some of which have the model server's last answer. */
    announceDead(dead: readonly (EndedTask & { answer: LastAnswer | null })[]): void {
      announce(dead, (index) => {
        const answer = dead[index]?.answer;
        return {
          outcome: 'dead',
          status_code: answer?.statusCode ?? UNANSWERED.dead,
          body: answer?.body ?? null,
          headers: answer?.headers ?? null,
        };
      });
    },

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
  if (state === 'line') return conflict(`the task is a line of a batch and can not be ${verb} by itself`);
  if (state === 'running' && attempt !== null)
    return conflict(`the task is running under another attempt than ${attempt}`);
  return conflict(`the task is ${state} and can not be ${verb}`);
}
