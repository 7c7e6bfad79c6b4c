import type { EndedTask } from './end-tasks.ts';
import type { Database } from './open.ts';

export type Heartbeat = { id: string; attempt: number | null; leaseSeconds: number | null };

export type Extended = {
  verdict: 'extended' | 'cancelled' | 'lost';
  worker: string | null;
  /** null where it was not extended. */
  lease_seconds: number | null;
  /** It was lost because it was answered. */
  answered: boolean;
};

/** Extends the leases of running tasks. Gives a row a task, in the order given. */
export function extendLeases(db: Database, tasks: readonly Heartbeat[]) {
  return db.call<Extended>(
    'extend_leases',
    [tasks.map((task) => task.id), tasks.map((task) => task.attempt), tasks.map((task) => task.leaseSeconds)],
    ['bigint[]', 'int[]', 'int[]'],
  );
}

export type Release = {
  id: string;
  /** null: whichever attempt runs. */
  attempt: number | null;
  /** null: the backoff decides. */
  delaySeconds: number | null;
  reason: string | null;
  /** false: the attempt does not count. */
  begun: boolean;
};

/** `waiting`, `deferred` or `dead`; where `lane` is null the task was not given back, and it is `unknown` or in a state that forbids it. */
export type Released = Omit<EndedTask, 'lane'> & { verdict: string; lane: string | null; rank: number };

/** Gives running tasks back, in one transaction. Gives a row a task, in the order given. */
export function releaseTasks(db: Database, tasks: readonly Release[]) {
  return db.call<Released>(
    'release_tasks',
    [
      tasks.map((task) => task.id),
      tasks.map((task) => task.attempt),
      tasks.map((task) => task.delaySeconds),
      tasks.map((task) => task.reason),
      tasks.map((task) => task.begun),
    ],
    ['bigint[]', 'int[]', 'float8[]', 'text[]', 'boolean[]'],
  );
}
