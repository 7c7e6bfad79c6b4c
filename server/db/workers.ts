import { sql } from 'slonik';
import type { Database } from './open.ts';

/** null: as it was kept before. */
export type SeenWorker = {
  id: string;
  name: string | null;
  capacities: string | null;
  lanes: readonly string[] | null;
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
    ],
    ['text[]', 'text[]', 'text[]', 'text[]'],
  );
}

/** Who of these workers is draining. */
export function readDraining(db: Database, ids: readonly string[]) {
  return db.query<{ worker: string; draining: boolean }>(
    sql.unsafe`select worker, draining from tasklane.worker where worker = any(${sql.array([...ids], 'text')})`,
  );
}

/** Throws 404 for a worker that was never seen. */
export async function setDraining(db: Database, id: string, draining: boolean): Promise<void> {
  await db.call('set_draining', [id, draining], ['text', 'boolean']);
}

export type WorkerStatus = {
  worker: string;
  name: string;
  capacities: Record<string, number> | null;
  lanes: string[];
  first_seen: number;
  last_seen: number;
  draining: boolean;
  running: string;
  rate: number;
};

/** Everyone who took tasks within the last week, who was seen last first. */
export function readWorkers(db: Database) {
  return db.query<WorkerStatus>(sql.unsafe`
    select worker, name, capacities, lanes, first_seen, last_seen, draining, running, rate
    from tasklane.worker_status order by last_seen desc, worker`);
}
