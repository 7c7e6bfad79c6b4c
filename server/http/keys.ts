import type { Auth } from '../auth/auth.ts';
import { type Key, rotateCallbackSecret } from '../db/keys.ts';
import type { Database } from '../db/open.ts';
import { notFound } from '../protocol/errors.ts';
import { keyBody } from '../protocol/keys.ts';
import type { Tasks } from '../tasks/tasks.ts';
import { type Route, route } from './route.ts';

export function keyRoutes({ db, auth, tasks }: { db: Database; auth: Auth; tasks: Tasks }): Route[] {
  return [
    route({
      method: 'post',
      path: '/v1/keys',
      summary: 'Make an API key; its secret is shown this once',
      roles: [],
      body: keyBody,
      async handle({ body }) {
        const { secret, key } = await auth.make(body.role, body.tenant, body.name);
        return { json: { ...keyJson(key), key: secret } };
      },
    }),
    route({
      method: 'get',
      path: '/v1/keys',
      summary: 'All live keys, without their secrets',
      roles: [],
      handle: async () => ({ json: { data: (await auth.list()).map(keyJson), has_more: false } }),
    }),
    route({
      method: 'delete',
      path: '/v1/keys/:id',
      summary: 'Revoke a key',
      roles: [],
      async handle({ params }) {
        const number = /^key-(\d{1,9})$/.exec(params.id ?? '')?.[1];
        if (number === undefined) throw notFound(`unknown key ${params.id}`);
        await auth.revoke(Number(number));
        tasks.keysChanged();
        return { status: 204 };
      },
    }),
    route({
      method: 'post',
      path: '/v1/callback_secret',
      summary: "A new secret that signs this tenant's callbacks, in place of the one there was",
      roles: ['client'],
      handle: async ({ principal }) => ({
        json: { signing_secret: await rotateCallbackSecret(db, principal.tenantId) },
      }),
    }),
  ];
}

function keyJson({ id, role, tenant, name, created_at }: Key) {
  return { id, role, tenant, name, created_at };
}
