import { z } from 'zod';
import type { Database } from '../db/open.ts';
import { readTenants, setTenant, type Tenant } from '../db/tenants.ts';
import { notFound } from '../protocol/errors.ts';
import { type Route, route } from './route.ts';

const tenantBody = z.object({
  /** Tasks that have not ended; null: no limit. */
  max_in_flight: z.int().min(1).max(2_147_483_647).nullish(),
  /** With bursts of one second's worth; null: no limit. */
  puts_per_second: z.number().gt(0).max(1_000_000).nullish(),
});

export function tenantRoutes({ db }: { db: Database }): Route[] {
  return [
    route({
      method: 'get',
      path: '/v1/tenants',
      summary: 'All tenants, with their limits and how many tasks they have in flight',
      roles: [],
      handle: async () => ({ json: { data: (await readTenants(db)).map(tenantJson), has_more: false } }),
    }),
    route({
      method: 'patch',
      path: '/v1/tenants/:tenant',
      summary: "Change a tenant's limits",
      roles: [],
      body: tenantBody,
      async handle({ params, body }) {
        await setTenant(db, params.tenant ?? '', body);
        const [tenant] = await readTenants(db, params.tenant ?? '');
        if (!tenant) throw notFound(`unknown tenant ${JSON.stringify(params.tenant)}`);
        return { json: tenantJson(tenant) };
      },
    }),
  ];
}

function tenantJson(tenant: Tenant) {
  return { ...tenant, in_flight: Number(tenant.in_flight) };
}
