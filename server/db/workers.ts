import { sql } from 'slonik';
import type { Upstream } from '../protocol/workers.ts';
import type { Database } from './open.ts';

/** null: as it was kept before. */
export type SeenWorker = {
  id: string;
  name: string | null;
  capacities: string | null;
  lanes: readonly string[] | null;
  host: string | null;
  /** A JSON array. */
  upstreams: string | null;
  /** true: it says good-bye. */
  stopping: boolean | null;
  /** Seconds since it last asked for tasks; one that asks after its good-bye is back. */
  askedAgo: number | null;
};

/** Keeps what workers say of themselves, and that they were seen now. Gives who is draining. */
export function seeWorkers(db: Database, workers: readonly SeenWorker[]) {
  return db.call<{ worker: string; draining: boolean }>(
    'see_workers',
    [
      workers.map((worker) => worker.id),
      workers.map((worker) => worker.name),
      workers.map((worker) => worker.capacities),
      workers.map((worker) => worker.lanes && JSON.stringify(worker.lanes)),
      workers.map((worker) => worker.host),
      workers.map((worker) => worker.upstreams),
      workers.map((worker) => worker.stopping),
      workers.map((worker) => worker.askedAgo),
    ],
    ['text[]', 'text[]', 'text[]', 'text[]', 'text[]', 'text[]', 'boolean[]', 'float8[]'],
  );
}

/** Who of these workers is draining. */
export function readDraining(db: Database, ids: readonly string[]) {
  return db.query<{ worker: string; draining: boolean }>(
    sql.unsafe`select worker, draining from tasklane.worker where worker = any(${sql.array([...ids], 'text')})`,
  );
}

/** Of a worker's id, or of a name's workers that live. Gives their ids; throws 404 when there is none. */
export async function setDraining(db: Database, idOrName: string, draining: boolean): Promise<string[]> {
  const rows = await db.call<{ set_draining: string }>('set_draining', [idOrName, draining], ['text', 'boolean']);
  return rows.map((row) => row.set_draining);
}

export type WorkerStatus = {
  worker: string;
  name: string;
  host: string;
  state: 'active' | 'draining' | 'stopped' | 'lost';
  capacities: Record<string, number> | null;
  lanes: string[];
  first_seen: number;
  last_seen: number;
  stopped_at: number | null;
  draining: boolean;
  upstreams: Upstream[] | null;
  running: string;
  rate: number;
};

/** Who takes tasks, and who did within the last hour: who was seen last first. */
export function readWorkers(db: Database) {
  return db.query<WorkerStatus>(sql.unsafe`
    select worker, name, host, state, capacities, lanes, first_seen, last_seen, stopped_at, draining, upstreams, running, rate
    from tasklane.worker_status order by last_seen desc, worker`);
}
