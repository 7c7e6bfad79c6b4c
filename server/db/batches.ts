import { sql } from 'slonik';
import type { InputError } from '../protocol/batches.ts';
import { TasklaneError } from '../protocol/errors.ts';
import type { EndedLane } from './end-tasks.ts';
import type { Database } from './open.ts';

type BatchStatus =
  | 'validating'
  | 'failed'
  | 'in_progress'
  | 'finalizing'
  | 'completed'
  | 'expired'
  | 'cancelling'
  | 'cancelled';

/** A batch as it is at this moment; times in epoch milliseconds. */
export type Batch = {
  /** Printed. */
  id: string;
  batch_id: string;
  tenant_id: number;
  status: BatchStatus;
  endpoint: string;
  model: string | null;
  errors: string | null;
  input_file_id: string;
  output_file_id: string | null;
  error_file_id: string | null;
  completion_window: string;
  total: number;
  completed: number;
  failed: number;
  /** Input, cached, output, reasoning, total. */
  usage: string;
  metadata: string | null;
  retry_of: string | null;
  queue: string | null;
  output_expires_seconds: number | null;
  window_seconds: number;
} & Record<'created_at' | 'expires_at', number> &
  Record<
    'in_progress_at' | 'finalizing_at' | 'completed_at' | 'failed_at' | 'expired_at' | 'cancelling_at' | 'cancelled_at',
    number | null
  >;

const COLUMNS = sql.fragment`
  p.id, p.batch_id, p.tenant_id, p.status, p.endpoint, p.model, p.errors::text, p.input_file_id, p.output_file_id, p.error_file_id,
  p.completion_window, p.total, p.completed, p.failed, array_to_json(p.usage)::text as usage, p.metadata::text, p.retry_of, q.queue,
  b.output_expires_seconds, extract(epoch from b.expires_at - b.created_at)::float8 as window_seconds, p.created_at, p.expires_at,
  p.in_progress_at, p.finalizing_at, p.completed_at, p.failed_at, p.expired_at, p.cancelling_at, p.cancelled_at`;

/** The batch, of a tenant where one is given. */
export async function findBatch(db: Database, id: string, tenantId: number | null): Promise<Batch | undefined> {
  const [batch] = await db.query<Batch>(sql.unsafe`
    select ${COLUMNS} from tasklane.batch b join tasklane.batch_progress p using (batch_id) left join tasklane.queue q on q.queue_id = b.queue_id
    where b.batch_id = ${id}::bigint and (${tenantId}::int is null or b.tenant_id = ${tenantId})`);
  return batch;
}

/** Batches, newest first, those made before one where it is given. */
export function listBatches(db: Database, tenantId: number | null, before: string | null, limit: number) {
  return db.query<Batch>(sql.unsafe`
    select ${COLUMNS} from tasklane.batch b join tasklane.batch_progress p using (batch_id) left join tasklane.queue q on q.queue_id = b.queue_id
    where (${tenantId}::int is null or b.tenant_id = ${tenantId}) and (${before}::bigint is null or b.batch_id < ${before}::bigint)
    order by b.batch_id desc limit ${limit}`);
}

export type NewBatch = {
  tenantId: number;
  keyId: number | null;
  inputFileId: string;
  endpoint: string;
  completionWindow: string;
  windowSeconds: number;
  queue: string | null;
  /** JSON. */
  metadata: string | null;
  outputExpiresSeconds: number | null;
  retryOf: string | null;
  key: { text: string; bodyHash: string; seconds: number } | null;
};

/** Throws 404, 400 and 409 as create_batch does. */
export async function createBatch(db: Database, batch: NewBatch): Promise<{ batch_id: string; repeated: boolean }> {
  const [made] = await db.call<{ batch_id: string; repeated: boolean }>(
    'create_batch',
    [
      batch.tenantId,
      batch.keyId,
      batch.inputFileId,
      batch.endpoint,
      batch.completionWindow,
      batch.windowSeconds,
      batch.queue,
      batch.metadata,
      batch.outputExpiresSeconds,
      batch.retryOf,
      batch.key?.text ?? null,
      batch.key?.bodyHash ?? null,
      batch.key?.seconds ?? 0,
    ],
    ['int', 'int', 'text', 'text', 'text', 'float8', 'text', 'json', 'int', 'bigint', 'text', 'text', 'int'],
  );
  return made as { batch_id: string; repeated: boolean };
}

export async function cancelBatch(db: Database, id: string, tenantId: number | null): Promise<void> {
  await db.call('cancel_batch', [id, tenantId], ['bigint', 'int']);
}

export async function pauseBatch(db: Database, id: string, paused: boolean, tenantId: number | null): Promise<void> {
  await db.call('pause_batch', [id, paused, tenantId], ['bigint', 'boolean', 'int']);
}

/** A batch with work to do. */
export type Claimed = {
  batch_id: string;
  status: BatchStatus;
  ending: BatchStatus | null;
  endpoint: string;
  input_file: string;
  queue_id: number | null;
  expanded: boolean;
  read_to: string;
  total: number;
  completed: number;
  failed: number;
  unanswered: number;
};

/** Batches with work to do that nobody has worked on for `quietSeconds`: of `ids`, or any. */
export function claimBatches(db: Database, ids: readonly string[] | null, quietSeconds: number) {
  return db.call<Claimed>('claim_batches', [ids, quietSeconds], ['bigint[]', 'int']);
}

/** In how many milliseconds the next window of a batch ends; null: none is open. */
export async function nextExpiry(db: Database): Promise<number | null> {
  const [row] = await db.query<{ expires_in: number | null }>(sql.unsafe`
    select (extract(epoch from min(expires_at) - now()) * 1000)::float8 as expires_in
    from tasklane.batch where status in ('validating', 'in_progress', 'finalizing', 'cancelling') and ending is null and expires_at > now()`);
  return row?.expires_in ?? null;
}

/** Gives a sign of life; false when the batch's lines are not wanted any more. */
export async function touchBatch(db: Database, id: string): Promise<boolean> {
  const [row] = await db.call<{ touch_batch: boolean }>('touch_batch', [id], ['bigint']);
  return row?.touch_batch ?? false;
}

export async function failBatch(db: Database, id: string, errors: readonly InputError[]): Promise<void> {
  await db.call('fail_batch', [id, JSON.stringify({ object: 'list', data: errors })], ['bigint', 'json']);
}

/** Whether it began. Throws 409 when a model has no route any more. */
export async function startBatch(db: Database, id: string, models: ReadonlyMap<string, number>): Promise<boolean> {
  const [row] = await db.call<{ start_batch: boolean }>(
    'start_batch',
    [id, [...models.keys()], [...models.values()]],
    ['bigint', 'text[]', 'int[]'],
  );
  return row?.start_batch ?? false;
}

/** The lines of a file from a byte on that begins one; none at the end. `line` is null where it is longer than `maxBytes`. */
export function readFileLines(db: Database, file: string, from: number, maxBytes: number) {
  return db.call<{ ends: string; line: string | null }>(
    'read_lines',
    [file, from, maxBytes],
    ['bigint', 'bigint', 'int'],
  );
}

/** A line of a batch's input; `data` is its body as it is written. */
export type Line = { customId: string; model: string; data: string };

/** The lanes to which the lines went; null when the batch does not stand at `from`. */
export async function expandBatch(
  db: Database,
  id: string,
  from: number,
  to: number,
  lines: readonly Line[],
  last: boolean,
): Promise<number[] | null> {
  const [row] = await db.call<{ expand_batch: number[] | null }>(
    'expand_batch',
    [
      id,
      from,
      to,
      lines.map((line) => line.model),
      lines.map((line) => line.customId),
      lines.map((line) => line.data),
      last,
    ],
    ['bigint', 'bigint', 'bigint', 'text[]', 'text[]', 'text[]', 'boolean'],
  );
  return row?.expand_batch ?? null;
}

/** Lets the next lines of batches wait in ready: in these lanes, or all. */
export function topUpLanes(db: Database, laneIds: readonly number[] | null) {
  return db.call<{ id: string; lane: string; rank: number }>('top_up_lanes', [laneIds], ['int[]']);
}

/** Adds up what has ended; gives the batches that this concerned. */
export function foldBatches(db: Database) {
  return db.call<{ batch_id: string; ended: boolean }>('fold_batches', [], []);
}

export type LinesPlace = { p_lane_id: number | null; p_after: string };

/** Ends the next lines of a batch that is cancelled or has expired. */
export async function endLines(db: Database, id: string, place: LinesPlace, limit: number) {
  const [row] = await db.query<LinesPlace & { ended: string | null }>(
    sql.unsafe`
    select p_lane_id, p_after, ended::text from tasklane.end_lines(${id}::bigint, ${place.p_lane_id}::int, ${place.p_after}::bigint, ${limit}::int)`,
    'long',
  );
  const { ended, ...next } = row as LinesPlace & { ended: string | null };
  return { next, freed: JSON.parse(ended ?? '[]') as EndedLane[] };
}

/** Writes the next lines into a batch's files. Gives whether there are more; null when it has lines that have not ended. */
export async function writeBatch(db: Database, id: string, limit: number): Promise<boolean | null> {
  const [row] = await db.call<{ write_batch: boolean | null }>('write_batch', [id, limit], ['bigint', 'int']);
  return row?.write_batch ?? null;
}

/** Lines that have ended, after a place, as the files have them; `next` is the place of the last one looked at. */
export async function readResults(db: Database, id: string, after: number, limit: number) {
  const rows = await db.call<{ place: number; line: string | null; more: boolean }>(
    'batch_results',
    [id, after, limit],
    ['bigint', 'int', 'int'],
  );
  const last = rows.at(-1);
  const lines = rows.filter((row): row is typeof row & { line: string } => row.line !== null);
  return { lines, next: last?.place ?? after, more: last?.more ?? false };
}

/** Copies the next lines without a good answer into a file; gives the task up to which it came, null at the end. */
export async function copyFailedLines(db: Database, id: string, file: string, after: string, limit: number) {
  const [row] = await db.call<{ copy_failed_lines: string | null }>(
    'copy_failed_lines',
    [id, file, after, limit],
    ['bigint', 'bigint', 'bigint', 'int'],
  );
  return row?.copy_failed_lines ?? null;
}

export type Explanation = {
  status: BatchStatus;
  waiting: number;
  running: number;
  ahead: number;
  eta_seconds: number | null;
  reason: string;
};

export async function explainBatch(db: Database, id: string): Promise<Explanation> {
  const [row] = await db.call<Explanation>('explain_batch', [id], ['bigint']);
  return row as Explanation;
}

/** Throws 404 for a queue that is none, 400 for one of another endpoint. */
export async function checkQueue(db: Database, queue: string, endpoint: string): Promise<void> {
  const [route] = await db.query<{ code: string | null; message: string }>(sql.unsafe`
    select code, message from tasklane.find_route(${queue}, ${endpoint}, null)`);
  if (route?.code) throw new TasklaneError(Number(route.code.slice(2)), route.message);
}
