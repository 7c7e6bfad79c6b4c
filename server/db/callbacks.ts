import type { Database } from './open.ts';

/** What is to be sent; task_id is null for an event. */
export type Message = {
  webhook_id: string;
  task_id: string | null;
  url: string;
  secrets: readonly string[];
  body: string;
};
export type DueCallback = Message & { delivery_id: string; attempts: number };
export type Settled = { deliveryId: string; status: number | null; error: string | null };

/** For how long nobody else may try what was claimed. */
export const CLAIM_MS = 38_000;

/** Due deliveries, claimed. */
export function claimCallbacks(db: Database, limit: number) {
  return db.call<DueCallback>('claim_callbacks', [limit], ['int']);
}

/** Keeps how deliveries went; one without an error is done. Gives when the others are due again. */
export function settleCallbacks(db: Database, settled: readonly Settled[]) {
  return db.call<{ delivery_id: string; status: string; next_at: number }>(
    'settle_callbacks',
    [settled.map((one) => one.deliveryId), settled.map((one) => one.status), settled.map((one) => one.error)],
    ['bigint[]', 'int[]', 'text[]'],
  );
}

export async function retryCallback(db: Database, deliveryId: string, tenantId: number | null): Promise<void> {
  await db.call('retry_callback', [deliveryId, tenantId], ['bigint', 'int']);
}

export type CallbackRow = {
  delivery_id: string;
  task_id: string | null;
  webhook_endpoint_id: string | null;
  event_type: string | null;
  url: string;
  status: string;
  attempts: number;
  last_status: number | null;
  last_error: string | null;
  created_at: number;
  next_at: number;
  finished_at: number | null;
};

/** Deliveries, newest first. */
export function listCallbacks(
  db: Database,
  tenantId: number | null,
  status: string | null,
  before: string | null,
  limit: number,
) {
  return db.call<CallbackRow>('list_callbacks', [tenantId, status, before, limit], ['int', 'text', 'bigint', 'int']);
}

/** When the next delivery is due (epoch ms), if within a minute. */
export async function nextCallbackAt(db: Database): Promise<number | undefined> {
  const [next] = await db.call<{ next_callback_at: number | null }>('next_callback_at', [], []);
  return next?.next_callback_at ?? undefined;
}
