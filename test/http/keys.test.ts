import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Json } from '../support/server.ts';
import { assertRefused, fixture } from './fixture.ts';

const f = fixture();

test('a key is shown once, works, and no longer once it is revoked', async () => {
  const made = await f.admin('POST', '/v1/keys', { role: 'client', tenant: 'acme', name: 'of a test' });
  assert.equal(made.status, 200);
  const { id, key, created_at, ...rest } = made.json;
  assert.deepEqual(rest, { role: 'client', tenant: 'acme', name: 'of a test' });
  assert.match(id, /^key-\d+$/);
  assert.match(key, /^sk-[\w-]{40,}$/);
  assert.ok(Math.abs(created_at - Date.now()) < 60_000);

  const list = await f.admin('GET', '/v1/keys');
  assert.deepEqual(Object.keys(list.json), ['data', 'has_more']);
  assert.ok(!list.text.includes(key), 'a list shows no secret');
  assert.deepEqual(
    list.json.data.find((row: Json) => row.id === id),
    { id, role: 'client', tenant: 'acme', name: 'of a test', created_at },
  );

  assert.equal((await f.server.request('GET', '/v1/queues', undefined, { key })).status, 200);
  const gone = await f.admin('DELETE', `/v1/keys/${id}`);
  assert.deepEqual([gone.status, gone.text], [204, '']);
  assertRefused(await f.server.request('GET', '/v1/queues', undefined, { key }), 401);
  assert.ok(!(await f.admin('GET', '/v1/keys')).text.includes(`"${id}"`));
  for (const unknown of [id, 'key-999999', 'key-', '1', 'x'])
    assertRefused(await f.admin('DELETE', `/v1/keys/${unknown}`), 404, /unknown key/);
});

test('the tenant of a key is default where none is named', async () => {
  const { json } = await f.admin('POST', '/v1/keys', { role: 'worker' });
  assert.deepEqual([json.tenant, json.name], ['default', '']);
});

test('a key with a bad role, tenant or name is refused', async () => {
  const bad: [object, string][] = [
    [{}, 'role'],
    [{ role: 'root' }, 'role'],
    [{ role: 'client', tenant: '' }, 'tenant'],
    [{ role: 'client', tenant: 'a b' }, 'tenant'],
    [{ role: 'client', tenant: 'x'.repeat(65) }, 'tenant'],
    [{ role: 'client', name: 7 }, 'name'],
  ];
  for (const [body, path] of bad) assertRefused(await f.admin('POST', '/v1/keys', body), 400, undefined, path);
});

test('a task names its submitter by the id of the key', async () => {
  const { json } = await f.admin('POST', '/v1/keys', { role: 'client' });
  const queue = await f.queue();
  const put = { queue, endpoint: '/v1/chat/completions', data: {} };
  await f.server.request('POST', '/v1/queue/put', put, { key: json.key });
  assert.equal((await f.takeOne(`${queue}:0`)).ak, json.id);
  await f.server.request('POST', '/v1/queue/put', put);
  assert.equal((await f.takeOne(`${queue}:0`)).ak, 'admin');
});

test('the secret of callbacks is made anew at every call, and is a Standard Webhooks one', async () => {
  const [one, two] = [await f.client('POST', '/v1/callback_secret'), await f.client('POST', '/v1/callback_secret')];
  assert.match(one.json.signing_secret, /^whsec_[A-Za-z0-9+/]{32,}={0,2}$/);
  assert.notEqual(one.json.signing_secret, two.json.signing_secret);
});

test('deliveries are listed for the tenant only', async () => {
  assert.deepEqual((await f.other('GET', '/v1/callbacks')).json, { data: [], has_more: false });
  for (const query of ['status=lost', 'limit=0', 'limit=1001', 'after=x'])
    assertRefused(await f.client('GET', `/v1/callbacks?${query}`), 400, undefined, query.split('=')[0]);
  assertRefused(await f.client('POST', '/v1/callbacks/x/retry'), 404);
});
