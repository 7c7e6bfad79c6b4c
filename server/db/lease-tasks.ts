import type { Answer, EndedTask } from './end-tasks.ts';
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

/** `headers`: JSON. */
export type LastAnswer = Pick<Answer, 'statusCode' | 'requestId' | 'body'> & { headers: string | null };

export type Release = {
  id: string;
  /** null: whichever attempt runs. */
  attempt: number | null;
  /** null: the backoff decides. */
  delaySeconds: number | null;
  reason: string | null;
  /** false: the attempt does not count. */
  begun: boolean;
  /** What the model server answered last; with `begun` false a refusal. */
  answer: LastAnswer | null;
};

/** `waiting`, `deferred` or `dead`; where `lane` is null the task was not given back, and it is `unknown` or in a state that forbids it. */
export type Released = Omit<EndedTask, 'lane'> & { verdict: string; lane: string | null; rank: number };

/** Gives running tasks back, in one transaction. Gives a row a task, in the order given. */
export function releaseTasks(db: Database, tasks: readonly Release[]) {
  const answers = tasks.map((task) => task.answer);
  const all = <Value>(of: (answer: LastAnswer) => Value) =>
    answers.some((answer) => answer !== null) ? answers.map((answer) => answer && of(answer)) : null;
  return db.call<Released>(
    'release_tasks',
    [
      tasks.map((task) => task.id),
      tasks.map((task) => task.attempt),
      tasks.map((task) => task.delaySeconds),
      tasks.map((task) => task.reason),
      tasks.map((task) => task.begun),
      all((answer) => answer.statusCode),
      all((answer) => answer.requestId),
      all((answer) => answer.body),
      all((answer) => answer.headers),
    ],
    ['bigint[]', 'int[]', 'float8[]', 'text[]', 'boolean[]', 'int[]', 'text[]', 'text[]', 'text[]'],
  );
}
