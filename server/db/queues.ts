import { sql } from 'slonik';
import type { Database } from './open.ts';

export type Queue = {
  queue: string;
  endpoint: string;
  lease_seconds: number;
  max_attempts: number;
  live_attempts: number;
  live_refusal_seconds: number;
  refusal_seconds: number;
  retry_initial_seconds: number;
  retry_factor: number;
  retry_max_seconds: number;
  retry_jitter: boolean;
  max_depth: number | null;
  max_running: number | null;
  aging_seconds: number;
  retention_seconds: number;
  max_completed_tasks: number | null;
  paused: boolean;
};

export type LaneStats = {
  queue: string;
  level: number;
  waiting: number;
  deferred: number;
  running: number;
  total_put_cnt: number;
  total_completed_cnt: number;
  oldest_waiting_ms: number | null;
  /** What keeps its tasks from being answered, as a word and in a sentence; null: nothing. */
  rule: string | null;
  reason: string | null;
};

export async function registerQueue(db: Database, queue: string, endpoint: string, settings: object): Promise<void> {
  await db.call('register_queue', [queue, endpoint, JSON.stringify(settings)], ['text', 'text', 'json']);
}

export async function setQueue(db: Database, queue: string, settings: object): Promise<void> {
  await db.call('set_queue', [queue, JSON.stringify(settings)], ['text', 'json']);
}

export async function deleteQueue(db: Database, queue: string): Promise<void> {
  await db.call('delete_queue', [queue], ['text']);
}

/** All queues by name, or the one named. */
export function readQueues(db: Database, queue: string | null = null) {
  return db.query<Queue>(sql.unsafe`
    select queue, endpoint, lease_seconds, max_attempts, live_attempts, live_refusal_seconds, refusal_seconds, retry_initial_seconds, retry_factor,
           retry_max_seconds, retry_jitter, max_depth, max_running, aging_seconds, retention_seconds, max_completed_tasks, paused
    from tasklane.queue where deleted_at is null and (${queue}::text is null or queue = ${queue}) order by queue`);
}

/** Lanes that were ever put to, of all queues or the one named. */
export async function readLaneStats(db: Database, queue: string | null = null): Promise<LaneStats[]> {
  const rows = await db.query<Record<keyof LaneStats, string | number | null>>(sql.unsafe`
    with stats as materialized (select * from tasklane.queue_stats where ${queue}::text is null or queue = ${queue})
    select s.*, c.rule, c.reason
    from stats s left join tasklane.lane_causes(array(select lane_id from stats)) c using (lane_id) order by s.queue, s.level`);
  return rows.map((row) => ({
    queue: String(row.queue),
    level: Number(row.level),
    waiting: Number(row.waiting),
    deferred: Number(row.deferred),
    running: Number(row.running),
    total_put_cnt: Number(row.total_put_cnt),
    total_completed_cnt: Number(row.total_completed_cnt),
    oldest_waiting_ms: row.oldest_waiting_ms === null ? null : Number(row.oldest_waiting_ms),
    rule: row.rule as string | null,
    reason: row.reason as string | null,
  }));
}
