import { z } from 'zod';
import { ownerOf } from '../auth/auth.ts';
import { listCallbacks, retryCallback } from '../db/callbacks.ts';
import type { Database } from '../db/open.ts';
import { notFound } from '../protocol/errors.ts';
import { type Route, route } from './route.ts';

const ID = /^\d{1,18}$/;

const listQuery = z.object({
  status: z.enum(['pending', 'delivered', 'failed']).optional(),
  after: z.string().regex(ID, 'is not the id of a callback').optional(),
  limit: z.coerce.number().pipe(z.int().min(1).max(1000)).default(20),
});

export function callbackRoutes({ db, onCallbacks }: { db: Database; onCallbacks(): void }): Route[] {
  return [
    route({
      method: 'get',
      path: '/v1/callbacks',
      summary: 'Deliveries of callbacks, newest first',
      roles: ['client'],
      query: listQuery,
      async handle({ query, principal }) {
        const rows = await listCallbacks(
          db,
          ownerOf(principal),
          query.status ?? null,
          query.after ?? null,
          query.limit + 1,
        );
        const data = rows.slice(0, query.limit).map(({ delivery_id, ...row }) => ({ id: delivery_id, ...row }));
        return { json: { data, has_more: rows.length > query.limit } };
      },
    }),
    route({
      method: 'post',
      path: '/v1/callbacks/:id/retry',
      summary: 'Send a failed callback again',
      roles: ['client'],
      async handle({ params, principal }) {
        if (!ID.test(params.id ?? '')) throw notFound(`unknown callback ${params.id}`);
        await retryCallback(db, params.id as string, ownerOf(principal));
        onCallbacks();
        return { json: params.id };
      },
    }),
  ];
}
