import { sql } from 'slonik';
import type { Database } from './open.ts';

export type Tenant = {
  tenant: string;
  max_in_flight: number | null;
  puts_per_second: number | null;
  in_flight: string;
  created_at: number;
};

/** All tenants by name, or the one named. */
export function readTenants(db: Database, tenant: string | null = null) {
  return db.query<Tenant>(sql.unsafe`
    select tenant, max_in_flight, puts_per_second, in_flight::bigint as in_flight, created_at
    from tasklane.tenant_stats where ${tenant}::text is null or tenant = ${tenant} order by tenant`);
}

/** Throws 404 for an unknown tenant. */
export async function setTenant(db: Database, tenant: string, settings: object): Promise<void> {
  await db.call('set_tenant', [tenant, JSON.stringify(settings)], ['text', 'json']);
}
