import type { Database } from './open.ts';

export type Strategy = 'fifo' | 'round_robin' | 'active_passive' | 'sequential';

/** A place in a lane's order; below the head there is nothing alive. */
export type Head = { rank: number; id: string };

/** The same, of a lane `queue:level`. */
export type Place = Head & { lane: string };

export type TakeCall = {
  /** `queue:level`. */
  lanes: readonly string[];
  heads: readonly Head[];
  strategy: Strategy;
  endpoint: string | null;
  minAgeSeconds: number;
  /** Who wants how many; tasks are dealt out in this order. */
  requests: readonly { size: number; worker: string | null; leaseSeconds: number | null; maxAttempts: number | null }[];
};

export type TakenTask = {
  /** Which of the requests gets it, from 1. */
  request: number;
  /** Which of the lanes it was in, from 1. */
  turn: number;
  id: string;
  rank: number;
  task_id: string;
  attempt: number;
  ak: string;
  instance: string | null;
  endpoint: string;
  queue: string;
  level: number;
  mode: string;
  created_at: number;
  expires_at: number;
  batch_id: string | null;
  trace_id: string | null;
  custom_id: string | null;
  callback_url: string | null;
  metadata: string | null;
  /** What goes on of the request's headers to the model server. */
  headers: string | null;
  /** The lane whose window of batches' lines is now to be topped up. */
  tops_up: number | null;
  /** null: past what one call may carry; to be given back. */
  data: string | null;
  /** Others may wait in the lanes. */
  more: boolean;
};

const TYPES = ['text[]', 'int[]', 'text', 'smallint[]', 'bigint[]', 'text', 'int', 'int[]', 'text[]', 'int[]'];

/** Takes tasks for several requests in one transaction. */
export function takeTasks(db: Database, call: TakeCall) {
  return db.call<TakenTask>(
    'take_tasks',
    [
      call.lanes,
      call.requests.map((request) => request.size),
      call.strategy,
      call.heads.map((head) => head.rank),
      call.heads.map((head) => head.id),
      call.endpoint,
      call.minAgeSeconds,
      call.requests.map((request) => request.leaseSeconds),
      call.requests.map((request) => request.worker),
      call.requests.map((request) => request.maxAttempts),
    ],
    TYPES,
  );
}

/** What waits below these places: the first task of each lane, of those that have one. */
export function waitingBelow(db: Database, places: readonly Place[]) {
  return db.call<Place>(
    'waiting_below',
    [places.map((place) => place.lane), places.map((place) => place.rank), places.map((place) => place.id)],
    ['text[]', 'smallint[]', 'bigint[]'],
  );
}

/** Undoes takes that no worker got to see. Gives where the tasks wait again. */
export function returnTasks(db: Database, tasks: readonly { id: string; attempt: number }[]) {
  return db.call<{ id: string; lane: string; rank: number; limited: boolean }>(
    'return_tasks',
    [tasks.map((task) => task.id), tasks.map((task) => task.attempt)],
    ['bigint[]', 'int[]'],
  );
}
