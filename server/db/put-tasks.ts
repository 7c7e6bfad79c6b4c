import type { Database } from './open.ts';
import { textArray } from './text-array.ts';

export type NewTask = {
  tenantId: number;
  keyId: number | null;
  queue: string | null;
  endpoint: string;
  level: number;
  mode: 'callback' | 'blocking' | 'streaming';
  priority: number;
  /** Seconds. */
  timeout: number;
  callbackUrl: string | null;
  traceId: string | null;
  /** Finds the queue where none is named. */
  model: string | null;
  /** JSON, kept as it is written. */
  data: string;
  /**
   * JSON of what few tasks have: run_at (epoch ms) or delay_seconds, max_attempts, retry, metadata, idempotency_key with body_hash (hex).
   * null: none of it.
   */
  options: string | null;
  /** What goes on of the request's headers to the model server: JSON of an object, null for none. */
  headers: string | null;
};

export type PutTask = {
  id: string;
  task_id: string;
  /** null: no queue was found. */
  lane: string | null;
  rank: number;
  /** repeated: its idempotency key had put this task before. running: its taker has it. */
  state: 'waiting' | 'deferred' | 'repeated' | 'running' | null;
  /** Set when the task, or another of its group, was refused; then nothing of the group was put. */
  code: string | null;
  message: string | null;
  /** Seconds. */
  retry_after: number | null;
  /** Other servers have been told that it waits. */
  told?: boolean | null;
};

export type PutRow = PutTask & {
  /** What its taker is to be told; null unless one has it. */
  ak: string | null;
  endpoint: string | null;
  created_at: number | null;
  expires_at: number | null;
};

/** A take that sleeps in a lane, and is to have a task if that goes there. */
export type Taker = {
  /** `queue:level`. */
  lane: string;
  worker: string | null;
  leaseSeconds: number | null;
  maxAttempts: number | null;
};

/** The types of what `putArguments` gives. */
export const PUT_TYPES = [
  ...['int[]', 'int[]', 'int[]', 'text[]', 'text[]', 'int[]', 'text[]', 'int[]', 'int[]', 'text[]', 'text[]', 'text[]'],
  'int',
  'text[]',
  'text[]',
];

/** Tasks as put_tasks takes them, and who passes its arguments on. */
export function putArguments(groups: readonly (readonly NewTask[])[], instanceId: number | null) {
  const tasks = groups.flat();
  return [
    groups.flatMap((group, index) => group.map(() => index)),
    tasks.map((task) => task.tenantId),
    tasks.map((task) => task.keyId),
    tasks.map((task) => task.queue),
    tasks.map((task) => task.endpoint),
    tasks.map((task) => task.level),
    tasks.map((task) => task.mode),
    tasks.map((task) => task.priority),
    tasks.map((task) => task.timeout),
    tasks.map((task) => task.callbackUrl),
    tasks.map((task) => task.traceId),
    textArray(tasks.map((task) => task.data)),
    instanceId,
    tasks.map((task) => task.model),
    // Most calls have none, and then nothing is asked about keys and limits.
    tasks.some((task) => task.options !== null) ? tasks.map((task) => task.options) : null,
  ];
}

const TYPES = [...PUT_TYPES, 'int', 'text[]', 'text[]', 'int[]', 'int[]', 'text[]', 'text[]'];

/**
 * Puts groups of tasks in one transaction; a group stands or falls as a whole. Idempotency keys are remembered for `keySeconds`. `takers`: who
 * is to have which of the tasks, all groups counted through. `awaited`: lanes in which takes sleep on other servers, which are told with the commit.
 * Gives a row a task, in the order given.
 */
export function putTasks(
  db: Database,
  groups: readonly (readonly NewTask[])[],
  instanceId: number,
  keySeconds: number,
  takers: readonly (Taker | undefined)[],
  awaited: readonly string[],
) {
  // Mostly nobody sleeps, and then nothing is asked about it.
  const some = takers.some((taker) => taker);
  const headers = groups.some((group) => group.some((task) => task.headers !== null));
  const all = <T>(of: (taker: Taker) => T) => (some ? takers.map((taker) => (taker ? of(taker) : null)) : null);
  return db.call<PutRow>(
    'put_tasks',
    [
      ...putArguments(groups, instanceId),
      keySeconds,
      all((taker) => taker.lane),
      all((taker) => taker.worker),
      all((taker) => taker.leaseSeconds),
      all((taker) => taker.maxAttempts),
      awaited.length > 0 ? awaited : null,
      headers ? groups.flatMap((group) => group.map((task) => task.headers)) : null,
    ],
    TYPES,
  );
}
