import { sql } from 'slonik';
import type { Message } from './callbacks.ts';
import type { Database } from './open.ts';

/** Times are epoch milliseconds. */
export type Endpoint = {
  endpoint_number: number;
  endpoint_id: string;
  name: string;
  url: string;
  event_types: string[];
  signing_secret: string;
  created_at: number;
  updated_at: number;
};

export async function createEndpoint(
  db: Database,
  tenantId: number,
  name: string,
  url: string,
  eventTypes: readonly string[],
): Promise<Endpoint> {
  const [made] = await db.call<Endpoint>(
    'create_webhook_endpoint',
    [tenantId, name, url, eventTypes],
    ['int', 'text', 'text', 'text[]'],
  );
  return made as Endpoint;
}

// Of a tenant's endpoints, or of all where tenantId is null. What there is not is undefined.

export async function readEndpoint(db: Database, id: string, tenantId: number | null): Promise<Endpoint | undefined> {
  const [found] = await db.query<Endpoint>(sql.unsafe`
    select * from tasklane.webhook_endpoint
    where endpoint_id = ${id} and (${tenantId}::int is null or tenant_id = ${tenantId})`);
  return found;
}

/** The place of an endpoint among all, in its id: also of one that is gone. Undefined for what is no id. */
export function endpointNumber(id: string): number | undefined {
  const [, hex] = /^whe_([0-9a-f]{8})[0-9A-Za-z]{14}$/.exec(id) ?? [];
  return hex === undefined ? undefined : Number.parseInt(hex, 16);
}

/** Newest first; `before` is the number of the last one of the page before. */
export function listEndpoints(db: Database, tenantId: number | null, before: number | null, limit: number) {
  return db.query<Endpoint>(sql.unsafe`
    select * from tasklane.webhook_endpoint
    where (${tenantId}::int is null or tenant_id = ${tenantId}) and (${before}::bigint is null or endpoint_number < ${before}::bigint)
    order by endpoint_number desc limit ${limit}`);
}

export async function updateEndpoint(
  db: Database,
  id: string,
  tenantId: number | null,
  change: { name?: string | undefined; url?: string | undefined; event_types?: readonly string[] | undefined },
): Promise<Endpoint | undefined> {
  const [changed] = await db.call<Endpoint>(
    'update_webhook_endpoint',
    [id, tenantId, change.name ?? null, change.url ?? null, change.event_types ?? null],
    ['text', 'int', 'text', 'text', 'text[]'],
  );
  return changed;
}

export async function rotateEndpointSecret(
  db: Database,
  id: string,
  tenantId: number | null,
  keepFormer: boolean,
): Promise<Endpoint | undefined> {
  const [rotated] = await db.call<Endpoint>(
    'rotate_webhook_secret',
    [id, tenantId, keepFormer],
    ['text', 'int', 'boolean'],
  );
  return rotated;
}

/** Whether there was one. */
export async function deleteEndpoint(db: Database, id: string, tenantId: number | null): Promise<boolean> {
  const [gone] = await db.call<{ delete_webhook_endpoint: boolean }>(
    'delete_webhook_endpoint',
    [id, tenantId],
    ['text', 'int'],
  );
  return gone?.delete_webhook_endpoint === true;
}

/** An event of a type, as the endpoint would be sent it. */
export async function sampleEvent(
  db: Database,
  id: string,
  tenantId: number | null,
  type: string,
): Promise<Message | undefined> {
  const [sample] = await db.call<Message>('sample_webhook', [id, tenantId, type], ['text', 'int', 'text']);
  return sample;
}
