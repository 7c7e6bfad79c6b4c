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

/** Tasks with their state and payloads, in the order of the ids, as many as fit into 32 MiB and one at least; unknown ids are absent. */
export function readTasks(db: Database, ids: readonly string[]) {
  return db.call<TaskStatus>('read_task_status', [ids], ['bigint[]']);
}

export type Attempt = {
  attempt: number;
  worker: string | null;
  taken_at: number;
  /** null: it runs. */
  ended_at: number | null;
  reason: string | null;
  /** It counted for nothing: the model server refused the task so often. */
  refusals: number | null;
};

/** A task's attempts, the first one first. */
export function readAttempts(db: Database, id: string) {
  return db.call<Attempt>('attempts_of', [id], ['bigint']);
}

export type TaskExplanation = {
  status: string;
  /** How many go before it, of a waiting one. */
  position: number | null;
  eta_seconds: number | null;
  reason: string;
  rule: string;
};

/** Why a task is where it is; undefined for one that is not there, or not the tenant's. */
export async function explainTask(
  db: Database,
  id: string,
  tenantId: number | null,
): Promise<TaskExplanation | undefined> {
  const [row] = await db.query<TaskExplanation>(sql.unsafe`
    select e.status, e.ahead as position, e.eta_seconds, e.reason, e.rule
    from tasklane.task t cross join lateral tasklane.explain_task(t.id) e
    where t.id = ${id}::bigint and (${tenantId}::int is null or t.tenant_id = ${tenantId})`);
  return row;
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
  /** JSON of what goes on of the answer's headers. */
  headers: string | null;
  envelope: string;
};

/** How tasks ended; those that have not are absent. */
export function readEndings(db: Database, ids: readonly string[]) {
  return db.call<Ending>('read_endings', [ids], ['bigint[]']);
}
