import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import OpenAI, { InvalidWebhookSignatureError } from 'openai';
import type { WebhookEndpointWithSecret } from 'openai/resources/webhooks';
import OpenAI6 from 'openai-6';
import pg from 'pg';
import { until } from '../acceptance/clients.ts';
import { createDatabase } from '../support/database.ts';
import { type Json, ownDatabase, type Server, startServer } from '../support/server.ts';
import { type Delivery, type Receiver, startReceiver } from './receiver.ts';

const BATCH = { id: 'BATCH-0-1-260101000000-0000-000001' };

let database: Awaited<ReturnType<typeof createDatabase>>;
let server: Server;
let psql: pg.Client;
let receiver: Receiver;
let key: string;
let tenant: string;
let tenants = 0;

const sql = async (text: string, values: unknown[] = [], session = psql): Promise<Json[]> =>
  (await session.query(text, values)).rows;

/** A batch ends so: what its end does in SQL, and the server is told. Gives how many endpoints are. */
async function send(type = 'batch.completed', of = tenant, session = psql): Promise<number> {
  const [{ sent }] = await sql(
    'select tasklane.send_webhooks(tenant_id, $1, $2) as sent from tasklane.tenant where tenant = $3',
    [type, JSON.stringify(BATCH), of],
    session,
  );
  await deliver(session);
  return sent;
}
const deliver = (session = psql) => sql(`select graphile_worker.add_job('deliver_callbacks')`, [], session);

const sdk = (one = server, apiKey = key) => new OpenAI({ apiKey, baseURL: `${one.url}/v1` });
const endpoint = (url: string, event_types: Json = ['batch.completed']): Promise<WebhookEndpointWithSecret> =>
  sdk().webhooks.create({ name: 'of a test', url, event_types });

const headersOf = (delivery: Delivery) => delivery.headers as Record<string, string>;
const unwrap = (delivery: Delivery, secret: string) =>
  new OpenAI({ apiKey: 'unused' }).webhooks.unwrap(delivery.body, headersOf(delivery), secret);
const refused = (delivery: Delivery, secret: string, message = /does not match the expected signature/) =>
  assert.rejects(unwrap(delivery, secret), (error: Error) => {
    assert.ok(error instanceof InvalidWebhookSignatureError);
    assert.match(error.message, message);
    return true;
  });

const callbacks = async (apiKey = key): Promise<Json[]> =>
  (await server.request('GET', '/v1/callbacks?limit=1000', undefined, { key: apiKey })).json.data;
/** The tenant's only delivery, once `is` holds. */
const listed = (what: string, is: (callback: Json) => boolean): Promise<Json> =>
  until(`the event ${what}`, async () => (await callbacks()).find(is));
const tried = (status: number | null) =>
  listed(`was answered ${status}`, (one) => one.last_error !== null && one.last_status === status);
const delivered = () => listed('is delivered', (one) => one.status === 'delivered');

async function skipWait(callback: Json): Promise<void> {
  await sql('update tasklane.callback_delivery set next_at = now() where delivery_id = $1', [callback.id]);
  await deliver();
}

before(async () => {
  database = await createDatabase();
  server = await startServer({ url: database.url });
  psql = new pg.Client({ connectionString: database.url });
  await psql.connect();
});
after(async () => {
  await psql?.end();
  await server?.stop();
  await database?.drop();
});
beforeEach(async () => {
  receiver = await startReceiver();
  tenant = `tenant${++tenants}`;
  key = await server.key('client', tenant);
});
afterEach(() => receiver.close());

describe('an event', () => {
  test('comes in the form of OpenAI, signed with the secret of its endpoint, as both openai clients check it', async () => {
    const { id, signing_secret, url } = await endpoint(receiver.url('/hook?x=1'));
    assert.equal(await send(), 1);
    const delivery = await receiver.next();
    delivery.answer(200);
    const { id: eventId, created_at, ...rest } = JSON.parse(delivery.body);
    assert.deepEqual(rest, { object: 'event', type: 'batch.completed', data: BATCH });
    assert.match(eventId, /^evt_[0-9A-Za-z]{22}$/);
    assert.ok(Number.isInteger(created_at) && Math.abs(created_at - Date.now() / 1000) < 60);
    assert.equal(delivery.path, '/hook?x=1');
    assert.equal(delivery.headers['content-type'], 'application/json');
    assert.equal(delivery.headers['x-task-id'], undefined);
    assert.match(headersOf(delivery)['webhook-signature'] as string, /^v1,[A-Za-z0-9+/]{43}=$/);

    assert.deepEqual(await unwrap(delivery, signing_secret), JSON.parse(delivery.body));
    const older = new OpenAI6({ apiKey: 'unused', webhookSecret: signing_secret });
    assert.deepEqual(await older.webhooks.unwrap(delivery.body, headersOf(delivery)), JSON.parse(delivery.body));

    const foreign = `whsec_${Buffer.alloc(32).toString('base64')}`;
    await refused(delivery, foreign);
    await assert.rejects(older.webhooks.unwrap(delivery.body, headersOf(delivery), foreign));
    await refused({ ...delivery, body: `${delivery.body} ` }, signing_secret);
    const old = { ...delivery.headers, 'webhook-timestamp': String(Math.floor(Date.now() / 1000) - 301) };
    await refused({ ...delivery, headers: old }, signing_secret, /timestamp is too old/);

    const { last_status, task_id, webhook_endpoint_id, event_type, ...done } = await delivered();
    assert.deepEqual([last_status, task_id, webhook_endpoint_id, event_type], [200, null, id, 'batch.completed']);
    assert.equal(done.url, url);
  });

  test('goes once to each endpoint that wants its type, of its tenant alone, and is the same event for all', async () => {
    const stranger = await server.key('client', `${tenant}-stranger`);
    await sdk(server, stranger).webhooks.create({
      name: 'not asked',
      url: receiver.url('/stranger'),
      event_types: ['batch.completed', 'batch.failed'],
    });
    const one = await endpoint(receiver.url('/one'), ['batch.failed', 'batch.completed']);
    const two = await endpoint(receiver.url('/two'), ['batch.failed']);
    await endpoint(receiver.url('/other'), ['batch.expired', 'batch.cancelled', 'batch.completed']);
    assert.equal(await send('batch.failed'), 2);
    const came = [await receiver.next(), await receiver.next()].sort((a, b) => a.path.localeCompare(b.path));
    for (const delivery of came) delivery.answer(200);
    assert.deepEqual(
      came.map((delivery) => delivery.path),
      ['/one', '/two'],
    );
    const [first, second] = came as [Delivery, Delivery];
    assert.equal((await unwrap(first, one.signing_secret)).type, 'batch.failed');
    await unwrap(second, two.signing_secret);
    await refused(first, two.signing_secret);
    assert.equal(first.body, second.body);
    assert.equal(first.headers['webhook-id'], second.headers['webhook-id']);
    assert.equal(await send('batch.cancelled', `${tenant}-stranger`), 0);
    assert.deepEqual(await callbacks(stranger), []);
    await until('both are settled', async () => (await callbacks()).every((row) => row.status === 'delivered'));
    assert.equal(receiver.count, 2);
  });

  test('is sent by nobody when the transaction in which it happened is rolled back', async () => {
    await endpoint(receiver.url());
    await sql('begin');
    await send('batch.completed');
    await sql('rollback');
    await send('batch.completed');
    (await receiver.next()).answer(200);
    await delivered();
    assert.equal((await callbacks()).length, 1);
    assert.equal(receiver.count, 1);
  });
});

describe('an event that is not taken', () => {
  test('comes again under the same webhook-id, with a signature of its own time', async () => {
    const { signing_secret } = await endpoint(receiver.url());
    await send();
    const first = await receiver.next();
    // A second on, or the new signature could not be told from the old one.
    const second = Math.floor(Date.now() / 1000);
    first.answer(500);
    const callback = await tried(500);
    assert.equal(callback.status, 'pending');
    await until('a second is over', async () => Math.floor(Date.now() / 1000) > second);
    await skipWait(callback);
    const again = await receiver.next();
    again.answer(302, { Location: receiver.url('/redirected') });
    assert.equal(again.headers['webhook-id'], first.headers['webhook-id']);
    assert.equal(again.body, first.body);
    assert.ok(Number(again.headers['webhook-timestamp']) > Number(first.headers['webhook-timestamp']));
    assert.notEqual(again.headers['webhook-signature'], first.headers['webhook-signature']);
    await unwrap(again, signing_secret);

    await skipWait(await tried(302));
    const last = await receiver.next();
    last.answer(204);
    assert.equal(last.path, '/', 'the redirect was not followed');
    assert.equal(last.headers['webhook-id'], first.headers['webhook-id']);
    assert.equal((await delivered()).attempts, 3);
    assert.equal(receiver.count, 3);
  });

  test('is tried for 72 hours; then it has failed, and is sent once more when asked', async () => {
    const { signing_secret } = await endpoint(receiver.url());
    await send();
    const first = await receiver.next();
    first.answer(500);
    const callback = await tried(500);
    const age = (hours: number) =>
      sql(
        `update tasklane.callback_delivery set created_at = now() - make_interval(hours => $2) where delivery_id = $1`,
        [callback.id, hours],
      );
    await age(71);
    await skipWait(callback);
    (await receiver.next()).answer(502);
    assert.equal((await tried(502)).status, 'pending');
    await age(73);
    await skipWait(callback);
    (await receiver.next()).answer(503);
    await listed('has failed', (one) => one.status === 'failed');

    const retry = (apiKey: string) => server.request('POST', `/v1/callbacks/${callback.id}/retry`, {}, { key: apiKey });
    assert.equal((await retry(await server.key('client', `${tenant}-stranger`))).status, 404);
    assert.equal((await retry(key)).status, 200);
    assert.equal((await retry(key)).status, 409);
    const again = await receiver.next();
    again.answer(200);
    assert.equal(again.headers['webhook-id'], first.headers['webhook-id']);
    await unwrap(again, signing_secret);
    await delivered();
  });

  test('follows its endpoint to a new URL, and goes with an endpoint that is deleted', async () => {
    const elsewhere = await startReceiver();
    try {
      const { id, signing_secret } = await endpoint(receiver.url());
      await send();
      (await receiver.next()).answer(404);
      const callback = await tried(404);
      await sdk().webhooks.update(id, { url: elsewhere.url('/moved') });
      await skipWait(callback);
      const moved = await elsewhere.next();
      assert.equal(moved.path, '/moved');
      await unwrap(moved, signing_secret);

      await sdk().webhooks.delete(id);
      moved.answer(500);
      assert.deepEqual(await callbacks(), []);
      assert.equal((await server.request('POST', `/v1/callbacks/${callback.id}/retry`, {}, { key })).status, 404);
      const other = await endpoint(receiver.url('/other'));
      assert.equal(await send(), 1);
      const next = await receiver.next();
      next.answer(200);
      await unwrap(next, other.signing_secret);
      await delivered();
      assert.equal(elsewhere.count, 1);
    } finally {
      await elsewhere.close();
    }
  });
});

describe('a secret that is rotated', () => {
  const next = async (): Promise<Delivery> => {
    await send();
    const delivery = await receiver.next();
    delivery.answer(200);
    return delivery;
  };

  test('no longer signs', async () => {
    const { id, signing_secret: old } = await endpoint(receiver.url());
    const { signing_secret: fresh } = await sdk().webhooks.rotateSecret(id);
    const delivery = await next();
    await unwrap(delivery, fresh);
    await refused(delivery, old);
  });

  test('signs as well for 24 hours when it is to be kept, also what was waiting', async () => {
    const { id, signing_secret: old } = await endpoint(receiver.url());
    await send();
    const early = await receiver.next();
    early.answer(500);
    const callback = await tried(500);
    const { signing_secret: fresh } = await sdk().webhooks.rotateSecret(id, {
      keep_old_secret_active_for_24_hours: true,
    });
    await refused(early, fresh);
    await skipWait(callback);
    const both = await receiver.next();
    both.answer(200);
    assert.match(headersOf(both)['webhook-signature'] as string, /^v1,\S{44} v1,\S{44}$/);
    for (const secret of [old, fresh]) {
      await unwrap(both, secret);
      await new OpenAI6({ apiKey: 'unused' }).webhooks.unwrap(both.body, headersOf(both), secret);
    }
    const testing = sdk().webhooks.test(id, { event_type: 'batch.failed' });
    const sample = await receiver.next();
    sample.answer(200);
    await testing;
    for (const secret of [old, fresh]) await unwrap(sample, secret);

    const [{ left }] = await sql(
      `select extract(epoch from former_until - now())::float8 / 3600 as left from tasklane.webhook_endpoint where endpoint_id = $1`,
      [id],
    );
    assert.ok(left > 23.9 && left <= 24);
    await sql(`update tasklane.webhook_endpoint set former_until = now() where endpoint_id = $1`, [id]);
    const later = await next();
    await unwrap(later, fresh);
    await refused(later, old);
  });

  test('is gone at once when it is rotated again without being kept', async () => {
    const { id, signing_secret: first } = await endpoint(receiver.url());
    const { signing_secret: second } = await sdk().webhooks.rotateSecret(id, {
      keep_old_secret_active_for_24_hours: true,
    });
    const { signing_secret: third } = await sdk().webhooks.rotateSecret(id, {
      keep_old_secret_active_for_24_hours: false,
    });
    const delivery = await next();
    await unwrap(delivery, third);
    for (const secret of [first, second]) await refused(delivery, secret);
  });
});

test('a callback of a task goes beside, signed with the secret of the tenant, and is listed without an endpoint', async () => {
  const { signing_secret } = await endpoint(receiver.url('/event'));
  const ask = async (method: string, path: string, body: object, apiKey?: string) => {
    const answer = await server.request(method, path, body, apiKey === undefined ? {} : { key: apiKey });
    assert.equal(answer.status, 200, answer.text);
    return answer.json;
  };
  const secret = (await ask('POST', '/v1/callback_secret', {}, key)).signing_secret;
  await ask('POST', '/v1/queue/register', { queue: 'beside', endpoint: '/v1/chat/completions' });
  const put = { queue: 'beside', endpoint: '/v1/chat/completions', data: {}, callback_url: receiver.url('/callback') };
  const id = (await ask('POST', '/v1/queue/put', put, key)).data;
  await ask('POST', '/v1/queue/take', { queues: ['beside:0'], size: 1 });
  await ask('POST', `/v1/queue/${id}/complete`, { status_code: 200, body: null });
  await send();
  const came = [await receiver.next(), await receiver.next()].sort((a, b) => a.path.localeCompare(b.path));
  for (const delivery of came) delivery.answer(200);
  const [callback, event] = came as [Delivery, Delivery];
  await unwrap(callback, secret);
  await unwrap(event, signing_secret);
  assert.deepEqual([callback.headers['x-task-id'], event.headers['x-task-id']], [id, undefined]);
  await until('both are settled', async () => (await callbacks()).every((row) => row.status === 'delivered'));
  assert.deepEqual(
    (await callbacks()).map((row) => [row.task_id, row.event_type, row.webhook_endpoint_id === null]),
    [
      [null, 'batch.completed', false],
      [id, null, true],
    ],
  );
});

test('200 events of two servers come once each', async () => {
  const second = await startServer({ url: database.url });
  try {
    await endpoint(receiver.url());
    await sql(
      `select tasklane.send_webhooks(tenant_id, 'batch.completed', '{"id":"BATCH-1"}')
       from tasklane.tenant, generate_series(1, 200) where tenant = $1`,
      [tenant],
    );
    for (let n = 0; n < 8; n++) await deliver();
    const ids = new Set<string>();
    for (let n = 0; n < 200; n++) {
      const delivery = await receiver.next();
      delivery.answer(200);
      ids.add(delivery.headers['webhook-id'] as string);
    }
    assert.equal(ids.size, 200);
    await until('all are settled', async () => (await callbacks()).every((row) => row.status === 'delivered'));
    assert.equal(receiver.count, 200);
  } finally {
    await second.stop();
  }
});

test('a server killed with kill -9 before it delivers, or while it does, leaves the event to the next one', async (t) => {
  const { psql: hand, start } = await ownDatabase(t);
  const first = await start();
  const { signing_secret } = await sdk(first, first.adminKey).webhooks.create({
    name: 'of a test',
    url: receiver.url(),
    event_types: ['batch.completed'],
  });
  await send('batch.completed', 'default', hand);
  const lost = await receiver.next();
  await first.kill('SIGKILL');
  lost.answer(200);
  await send('batch.completed', 'default', hand);

  await start();
  const fresh = await receiver.next();
  fresh.answer(200);
  assert.notEqual(fresh.headers['webhook-id'], lost.headers['webhook-id']);
  await unwrap(fresh, signing_secret);
  // So long nobody else may try what the dead server has claimed.
  const claimed = await hand.query(
    `update tasklane.callback_delivery set next_at = now() where status = 'pending' and next_at > now() + interval '20 seconds'
     and event ->> 'id' = $1`,
    [lost.headers['webhook-id']],
  );
  assert.equal(claimed.rowCount, 1);
  await deliver(hand);
  const again = await receiver.next();
  again.answer(200);
  assert.equal(again.headers['webhook-id'], lost.headers['webhook-id']);
  assert.equal(again.body, lost.body);
  await unwrap(again, signing_secret);
});

test('a server that may not call private addresses refuses them at create, update, test and delivery', async (t) => {
  const { psql: hand, start } = await ownDatabase(t);
  const strict = await start({ env: { TASKLANE_CALLBACK_ALLOW: '' } });
  const { webhooks } = sdk(strict, strict.adminKey);
  const make = (url: string) => webhooks.create({ name: 'x', url, event_types: ['batch.completed'] });
  for (const host of ['127.0.0.1', '10.1.2.3', '169.254.169.254', '[::1]', '2130706433', '[::ffff:127.0.0.1]'])
    await assert.rejects(make(`http://${host}:9/`), /400 Invalid 'url': address .* is not permitted/);

  const byName = await make(`http://localhost:${receiver.port}/`);
  await assert.rejects(webhooks.update(byName.id, { url: receiver.url() }), /127\.0\.0\.1 is not permitted/);
  await assert.rejects(
    webhooks.test(byName.id, { event_type: 'batch.completed' }, { maxRetries: 0 }),
    /502 .*localhost resolves to no permitted address/,
  );
  const byHand = await make('http://example.com/');
  await hand.query('update tasklane.webhook_endpoint set url = $1 where endpoint_id = $2', [receiver.url(), byHand.id]);
  assert.equal(await send('batch.completed', 'default', hand), 2);
  for (const [id, why] of [
    [byName.id, /localhost resolves to no permitted address/],
    [byHand.id, /127\.0\.0\.1 is not permitted/],
  ] as const) {
    const kept = await until('the event was refused', async () => {
      const { json } = await strict.request('GET', '/v1/callbacks');
      return json.data.find((one: Json) => one.webhook_endpoint_id === id && one.last_error !== null);
    });
    assert.match(kept.last_error, why);
    assert.deepEqual([kept.last_status, kept.status], [null, 'pending']);
  }
  assert.equal(receiver.count, 0);
});
