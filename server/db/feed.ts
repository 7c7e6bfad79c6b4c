import { sql } from 'slonik';
import type { EventType } from '../protocol/feed.ts';
import type { Database } from './open.ts';

/** What an event must match; null matches all. */
export type FeedFilter = {
  tenantId: number | null;
  types: readonly EventType[] | null;
  queue: string | null;
  /** The task's. */
  id: string | null;
  batchId: string | null;
};

/** `number` is where the event is in the feed, and all that there is when `task_id` is null. */
export type FeedRow = {
  number: string;
  type: EventType;
  id: string;
  task_id: string | null;
  queue: string;
  level: number;
  status: string;
  attempt: number;
  created_at: number;
  batch_id: string | null;
  data: string | null;
  tenant_id: number;
};

/** Has events recorded, and for so long after the last call; gives the highest number so far. */
export async function openFeed(db: Database, keepSeconds: number): Promise<number> {
  const [row] = await db.call<{ open_feed: string }>('open_feed', [keepSeconds], ['int']);
  return Number(row?.open_feed);
}

/** Numbers staged events from a place on; undefined when another is at it. */
export async function numberEvents(db: Database, from: number, limit: number) {
  const [row] = await db.call<{ moved: number; last_seq: string | null }>(
    'number_events',
    [from, limit],
    ['bigint', 'int'],
  );
  return row && { moved: row.moved, lastSeq: Number(row.last_seq) };
}

/** Matching events after a number, in order, of the next `limit`; the last of these is there in any case. None when there are no more. */
export function readFeed(db: Database, after: number, limit: number, filter: FeedFilter) {
  return db.call<FeedRow>(
    'read_feed',
    [after, limit, filter.tenantId, filter.types, filter.queue, filter.id, filter.batchId],
    ['bigint', 'int', 'int', 'text[]', 'text', 'bigint', 'text'],
  );
}

/** Deletes old events among the next `limit` after a number; gives how far it came, undefined when there are no more. */
export async function deleteEvents(db: Database, after: number, keepSeconds: number, limit: number) {
  const [row] = await db.call<{ delete_events: string | null }>(
    'delete_events',
    [after, keepSeconds, limit],
    ['bigint', 'int', 'int'],
  );
  return row?.delete_events == null ? undefined : Number(row.delete_events);
}

/** Throws 404 when there is no such queue. */
export async function checkQueue(db: Database, queue: string): Promise<void> {
  await db.call('queue_of', [queue], ['text']);
}

/** Whose task it is; undefined when there is no such task. */
export async function tenantOf(db: Database, id: string): Promise<number | undefined> {
  const [task] = await db.query<{ tenant_id: number }>(sql.unsafe`
    select tenant_id from tasklane.task where id = ${id}::bigint`);
  return task?.tenant_id;
}
