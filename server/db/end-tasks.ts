import type { Database } from './open.ts';
import { textArray } from './text-array.ts';

/** A task that has just ended, and who must be told. */
export type EndedTask = {
  id: string;
  task_id: string;
  /** `queue:level`. */
  lane: string;
  mode: 'blocking' | 'streaming' | 'callback' | 'batch';
  instance_id: number | null;
  has_callback: boolean;
  /** Its queue has a max_running. */
  limited: boolean;
  /** Other servers have been told that it ended. */
  told?: boolean | null;
};

/** The lane of one that stopped running. */
export type EndedLane = Pick<EndedTask, 'lane' | 'limited'>;

export type Answer = {
  id: string;
  /** null: whichever attempt runs. */
  attempt: number | null;
  statusCode: number;
  requestId: string | null;
  /** JSON, kept as it is written. */
  body: string;
  /** What goes on of the model server's headers: JSON of an object, null for none. */
  headers: string | null;
};

/** `completed`, `repeated`, `unknown`, or the state that forbids it. Only with `completed` are the other columns set. */
export type Completed = EndedTask & { verdict: string };

/**
 * Ends running tasks with answers, in one transaction. `teller`: the number of this server, where others are to be told with the commit.
 * Gives a row an answer, in the order given.
 */
export function completeTasks(db: Database, answers: readonly Answer[], teller: number | null) {
  return db.call<Completed>(
    'complete_tasks',
    [
      answers.map((answer) => answer.id),
      answers.map((answer) => answer.attempt),
      answers.map((answer) => answer.statusCode),
      answers.map((answer) => answer.requestId),
      textArray(answers.map((answer) => answer.body)),
      teller,
      answers.some((answer) => answer.headers !== null) ? answers.map((answer) => answer.headers) : null,
    ],
    ['bigint[]', 'int[]', 'int[]', 'text[]', 'text[]', 'int', 'text[]'],
  );
}

/** `refusal`: null when cancelled just now, `unknown`, or the state that forbids it. */
export type Cancelled = EndedTask & { refusal: string | null };

/** Cancels tasks, each only if it is the tenant's where one is given. Gives a row a task, in the order given. */
export function cancelTasks(db: Database, tasks: readonly { id: string; tenantId: number | null }[]) {
  return db.call<Cancelled>(
    'cancel_tasks',
    [tasks.map((task) => task.id), tasks.map((task) => task.tenantId)],
    ['bigint[]', 'int[]'],
  );
}

/** Ends those of the tasks whose deadline has passed, and gives them. */
export function expireTasks(db: Database, ids: readonly string[]) {
  return db.call<EndedTask>('expire_tasks', [ids], ['bigint[]']);
}

/** Ends running and deferred tasks past their deadline, at most `limit` of each. */
export function expireDue(db: Database, limit: number) {
  return db.call<EndedTask>('expire_due', [limit], ['int']);
}

/** Where a walk over the waiting tasks stands; lane null when it is through. */
export type SweepPlace = { p_lane_id: number | null; p_rank: number | null; p_id: string | null };

export async function sweepReady(db: Database, place: SweepPlace, rows: number) {
  const [found] = await db.call<SweepPlace & { expired: string[] | null }>(
    'sweep_ready',
    [place.p_lane_id, place.p_rank, place.p_id, rows],
    ['int', 'smallint', 'bigint', 'int'],
  );
  return found as SweepPlace & { expired: string[] | null };
}

/** Cancels up to `limit` waiting tasks of the lane `queue:level`. */
export function clearLane(db: Database, lane: string, limit: number) {
  return db.call<EndedTask>('clear_lane', [lane, limit], ['text', 'int']);
}
