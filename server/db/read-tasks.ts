import { sql } from 'slonik';
import type { Database } from './open.ts';

export type TaskStatus = {
  id: string;
  task_id: string;
  queue: string;
  level: number;
  status: string;
  attempt: number;
  response_mode: string;
  endpoint: string;
  ak: string;
  tenant_id: number;
  instance: string | null;
  trace_id: string | null;
  batch_id: string | null;
  custom_id: string | null;
  callback_url: string | null;
  created_at: number;
  expires_at: number;
  taken_at: number | null;
  completed_at: number | null;
  priority: number;
  metadata: string | null;
  /** Of a deferred task. */
  run_at: number | null;
  data: string;
  result: string | null;
};

/**
 * Tasks with their state and payloads, in the order of the ids, as many as fit into 32 MiB and one at least; unknown ids are absent.
 * By laterals of one row, each found by its id: joined, a page of large tasks was at times read by scans of all tasks.
 */
export function readTasks(db: Database, ids: readonly string[]) {
  return db.query<TaskStatus>(sql.unsafe`
    with sized as materialized (
      select i.id, row_number() over (order by i.place) as nth, sum(t.bytes + coalesce(r.bytes, 0)) over (order by i.place) as bytes
      from unnest(${sql.array([...ids], 'int8')}) with ordinality as i(id, place)
      cross join lateral (select octet_length(t.data::text) as bytes from tasklane.task t where t.id = i.id limit 1) t
      left join lateral (select octet_length(r.body::text) as bytes from tasklane.result r where r.id = i.id limit 1) r on true
    )
    select s.id, task_id, queue, level, status, attempt, response_mode, endpoint, ak, tenant_id, instance, trace_id, batch_id, custom_id,
           callback_url, created_at, expires_at, taken_at, completed_at, priority, metadata::text, run_at,
           data::text, result::text
    from sized z cross join lateral (select * from tasklane.task_status s where s.id = z.id limit 1) s
    where z.nth = 1 or z.bytes <= 32 * 1024 * 1024 order by z.nth`);
}

export type Attempt = {
  attempt: number;
  worker: string | null;
  taken_at: number;
  /** null: it runs. */
  ended_at: number | null;
  reason: string | null;
};

/** A task's attempts, the first one first. */
export function readAttempts(db: Database, id: string) {
  return db.call<Attempt>('attempts_of', [id], ['bigint']);
}

export type TaskFilter = {
  tenantId: number | null;
  queue: string | null;
  level: number | null;
  status: string | null;
  batchId: string | null;
  after: string | null;
  limit: number;
  ascending: boolean;
};

/** Ids of tasks in order, newest first unless `ascending`. */
export async function listTasks(db: Database, filter: TaskFilter): Promise<string[]> {
  const rows = await db.call<{ list_tasks: string }>(
    'list_tasks',
    [
      filter.tenantId,
      filter.queue,
      filter.level,
      filter.status,
      filter.after,
      filter.limit,
      filter.ascending,
      filter.batchId,
    ],
    ['int', 'text', 'int', 'text', 'bigint', 'int', 'boolean', 'bigint'],
  );
  return rows.map((row) => row.list_tasks);
}

export type Ending = {
  id: string;
  outcome: string;
  attempt: number;
  status_code: number;
  body: string | null;
  envelope: string;
};

/** How tasks ended; those that have not are absent. */
export function readEndings(db: Database, ids: readonly string[]) {
  return db.call<Ending>('read_endings', [ids], ['bigint[]']);
}
