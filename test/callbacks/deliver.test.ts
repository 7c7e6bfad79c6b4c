import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import OpenAI from 'openai';
import pg from 'pg';
import { ENDPOINT, talk, until } from '../acceptance/clients.ts';
import { createDatabase } from '../support/database.ts';
import { type Json, ownDatabase, type Server, startServer } from '../support/server.ts';
import { type Delivery, type Receiver, startReceiver } from './receiver.ts';

let database: Awaited<ReturnType<typeof createDatabase>>;
let server: Server;
let psql: pg.Client;
let receiver: Receiver;
let client: string;
let secret: string;

const sql = async (text: string, values: unknown[] = []): Promise<Json[]> => (await psql.query(text, values)).rows;
/** What a server asks for when a callback task ends. */
const deliver = () => sql(`select graphile_worker.add_job('deliver_callbacks')`);

before(async () => {
  database = await createDatabase();
  server = await startServer({ url: database.url });
  psql = new pg.Client({ connectionString: database.url });
  await psql.connect();
  client = await server.key('client');
  secret = (await server.request('POST', '/v1/callback_secret', {}, { key: client })).json.signing_secret;
  await talk(server).register('q');
});
after(async () => {
  await psql?.end();
  await server?.stop();
  await database?.drop();
});
// One for each test: what a failed one leaves unanswered does not reach the next.
beforeEach(async () => {
  receiver = await startReceiver();
});
afterEach(() => receiver.close());

/** A running task whose end is told to `url`. */
async function running(url: string): Promise<string> {
  const id = await talk(server).put('q', { callback_url: url });
  assert.equal((await talk(server).takeOne('q')).task_id, id);
  return id;
}

/** The delivery of a task as `GET /v1/callbacks` tells it, once `is` holds. */
const listed = (taskId: string, what: string, is: (callback: Json) => boolean): Promise<Json> =>
  until(`the callback ${what}`, async () => {
    const { json } = await server.request('GET', '/v1/callbacks?limit=1000');
    return json.data.find((callback: Json) => callback.task_id === taskId && is(callback));
  });
/** Not by the count of attempts alone: it goes up when an attempt begins. */
const tried = (taskId: string, status: number | null) =>
  listed(taskId, `was answered ${status}`, (one) => one.last_error !== null && one.last_status === status);
const delivered = (taskId: string) => listed(taskId, 'is delivered', (one) => one.status === 'delivered');

/** Lets the time until the next attempt pass, and asks for deliveries. */
async function skipWait(callback: Json): Promise<void> {
  await sql('update tasklane.callback_delivery set next_at = now() where delivery_id = $1', [callback.id]);
  await deliver();
}

/** Throws unless the tenant's secret has signed the delivery, as the `openai` package checks it. */
const verify = (delivery: Delivery, signedBy = secret) =>
  new OpenAI({ apiKey: 'unused' }).webhooks.verifySignature(
    delivery.body,
    delivery.headers as Record<string, string>,
    signedBy,
  );

describe('a callback', () => {
  test('carries what the worker answered as minified JSON, signed with the secret of the tenant', async () => {
    const id = await running(receiver.url('/path?query=1'));
    const answer = `{ "status_code": 201, "request_id": "r-1", "body": { "text" : "a  b", "n": 1.50, "ü": [ ] } }`;
    assert.equal((await server.request('POST', `/v1/queue/${id}/complete`, answer)).status, 200);
    const delivery = await receiver.next();
    assert.equal(delivery.path, '/path?query=1');
    assert.equal(delivery.body, '{"status_code":201,"request_id":"r-1","body":{"text":"a  b","n":1.50,"ü":[]}}');
    assert.equal(delivery.headers['content-type'], 'application/json');
    assert.equal(delivery.headers['x-task-id'], id);
    await verify(delivery);
    await assert.rejects(verify({ ...delivery, body: `${delivery.body} ` }));
    await assert.rejects(verify(delivery, 'whsec_b3RoZXI='));
    delivery.answer(204);
    const done = await delivered(id);
    assert.equal(done.last_status, 204);
    assert.equal(done.attempts, 1);
    assert.ok(done.finished_at >= done.created_at);
  });

  test('is also sent for an answer that is not a 2xx, in bulk, by an event, or in psql', async () => {
    const ways: [(id: string) => Promise<unknown>, object][] = [
      [(id) => talk(server).complete(id, { oh: 'no' }, 500), { status_code: 500, body: { oh: 'no' } }],
      [
        (id) =>
          server.request('POST', '/v1/queue/complete', {
            results: [{ task_id: id, status_code: 200, body: 'bulk', request_id: null }],
          }),
        { status_code: 200, body: 'bulk' },
      ],
      [
        (id) =>
          talk(server).emit([
            { name: 'task-completion-event', payload: { taskId: id, result: { status_code: 200, body: null } } },
          ]),
        { status_code: 200, body: null },
      ],
      [
        (id) => sql(`select tasklane.complete($1, 200, '{ "by": "hand" }')`, [id]),
        { status_code: 200, body: { by: 'hand' } },
      ],
    ];
    for (const [complete, told] of ways) {
      const id = await running(receiver.url());
      await complete(id);
      const delivery = await receiver.next();
      delivery.answer(200);
      assert.deepEqual(JSON.parse(delivery.body), { request_id: id, ...told });
      assert.equal(delivery.headers['x-task-id'], id);
      await verify(delivery);
    }
  });

  test('of a cancelled task tells 499, waiting or running, by whomever', async () => {
    const cancels = [
      async (id: string) => assert.equal((await server.request('POST', `/v1/queue/${id}/cancel`)).status, 202),
      (id: string) => sql('select tasklane.cancel($1)', [id]),
    ];
    for (const cancel of cancels)
      for (const taken of [false, true]) {
        const id = taken
          ? await running(receiver.url())
          : await talk(server).put('q', { callback_url: receiver.url() });
        await cancel(id);
        const delivery = await receiver.next();
        delivery.answer(200);
        const { error, ...told } = JSON.parse(delivery.body);
        assert.deepEqual(told, { status_code: 499, request_id: id });
        assert.match(error.message, /cancelled/);
        await verify(delivery);
      }
  });

  test('is not sent where the put names no URL', async () => {
    const silent = await talk(server).put('q');
    await talk(server).takeOne('q');
    await talk(server).complete(silent);
    const id = await running(receiver.url());
    const before = receiver.count;
    await talk(server).complete(id);
    const delivery = await receiver.next();
    delivery.answer(200);
    assert.equal(delivery.headers['x-task-id'], id);
    await delivered(id);
    assert.equal(receiver.count, before + 1);
  });

  test('is signed with the new secret once the tenant has made one', async () => {
    const key = await server.key('client', 'rotating');
    const rotate = async () => (await server.request('POST', '/v1/callback_secret', {}, { key })).json.signing_secret;
    const old = await rotate();
    for (const [current, other] of [
      [old, secret],
      [await rotate(), old],
    ]) {
      const body = { queue: 'q', endpoint: ENDPOINT, data: {}, callback_url: receiver.url() };
      const put = await server.request('POST', '/v1/queue/put', body, { key });
      const task = await talk(server).takeOne('q');
      assert.equal(task.task_id, put.json.data);
      await talk(server).complete(task.task_id);
      const delivery = await receiver.next();
      delivery.answer(200);
      if (current === old) continue;
      await verify(delivery, current);
      await assert.rejects(verify(delivery, other));
    }
  });
});

describe('a callback that is not taken', () => {
  test('is sent again with the same id after 5 s, then after twice as long each time, until a 2xx comes', async () => {
    const id = await running(receiver.url());
    await talk(server).complete(id, { same: 'body' });
    const first = await receiver.next();
    first.answer(500);
    for (const [status, seconds, next] of [
      [500, 5, 502],
      [502, 10, 503],
      [503, 20, 200],
    ] as const) {
      const callback = await tried(id, status);
      assert.equal(callback.status, 'pending');
      assert.equal(callback.last_error, `answered ${status}`);
      const [{ left }] = await sql(
        `select extract(epoch from next_at - now())::float8 as left from tasklane.callback_delivery where delivery_id = $1`,
        [callback.id],
      );
      assert.ok(left > seconds - 4 && left <= seconds, `${left} s until the next attempt`);
      await skipWait(callback);
      const again = await receiver.next();
      again.answer(next);
      assert.equal(again.headers['webhook-id'], first.headers['webhook-id']);
      assert.equal(again.headers['x-task-id'], id);
      assert.equal(again.body, first.body);
      await verify(again);
    }
    const done = await delivered(id);
    assert.equal(done.attempts, 4);
    assert.equal(done.last_error, null);
  });

  test('is sent again by itself', async () => {
    const id = await running(receiver.url());
    await talk(server).complete(id);
    (await receiver.next()).answer(503);
    const again = await receiver.next();
    again.answer(200);
    assert.equal(again.headers['x-task-id'], id);
    assert.equal((await delivered(id)).attempts, 2);
  });

  test('because it was redirected is not sent where the redirect points, but again to its URL', async () => {
    const elsewhere = await startReceiver();
    try {
      const id = await running(receiver.url('/asked'));
      await talk(server).complete(id);
      (await receiver.next()).answer(307, { Location: elsewhere.url('/redirected') });
      const callback = await tried(id, 307);
      await skipWait(callback);
      const again = await receiver.next();
      again.answer(200);
      assert.equal(again.path, '/asked');
      await delivered(id);
      assert.equal(elsewhere.count, 0);
    } finally {
      await elsewhere.close();
    }
  });

  test('because nobody listens is sent once somebody does', async () => {
    const down = await startReceiver();
    await down.close();
    const id = await running(down.url());
    await talk(server).complete(id);
    const callback = await tried(id, null);
    assert.equal(callback.status, 'pending');
    assert.match(callback.last_error, /ECONNREFUSED/);
    const up = await startReceiver(down.port);
    try {
      await skipWait(callback);
      const delivery = await up.next();
      delivery.answer(200);
      await verify(delivery);
      await delivered(id);
    } finally {
      await up.close();
    }
  });

  test('for a day has failed: it is listed to its tenant, and sent once more when asked', async () => {
    const id = await running(receiver.url());
    await talk(server).complete(id);
    (await receiver.next()).answer(500);
    const callback = await tried(id, 500);
    await sql(`update tasklane.callback_delivery set created_at = now() - interval '25 hours' where delivery_id = $1`, [
      callback.id,
    ]);
    await skipWait(callback);
    (await receiver.next()).answer(502);
    await listed(id, 'has failed', (one) => one.status === 'failed');

    const stranger = await server.key('client', 'stranger');
    const failed = (key: string) => server.request('GET', '/v1/callbacks?status=failed', undefined, { key });
    const retry = (key: string) => server.request('POST', `/v1/callbacks/${callback.id}/retry`, {}, { key });
    const [own, ...more] = (await failed(client)).json.data;
    assert.deepEqual(more, []);
    assert.deepEqual(
      [own.id, own.task_id, own.url, own.last_status, own.attempts],
      [callback.id, id, receiver.url(), 502, 2],
    );
    assert.deepEqual((await failed(stranger)).json, { data: [], has_more: false });
    assert.equal((await retry(stranger)).status, 404);

    assert.equal((await retry(client)).status, 200);
    assert.equal((await retry(client)).status, 409);
    const again = await receiver.next();
    again.answer(200);
    assert.equal(again.headers['x-task-id'], id);
    await verify(again);
    await delivered(id);
    assert.deepEqual((await failed(client)).json.data, []);
  });
});

test('a receiver that never answers does not hold up the callbacks to others', async () => {
  const stuck = await startReceiver();
  try {
    for (let n = 0; n < 10; n++) {
      await talk(server).complete(await running(stuck.url()));
      await stuck.next();
    }
    const id = await running(receiver.url());
    await talk(server).complete(id);
    const delivery = await receiver.next();
    delivery.answer(200);
    assert.equal(delivery.headers['x-task-id'], id);
  } finally {
    await stuck.close();
  }
});

test('a server stops cleanly while a receiver does not answer', async (t) => {
  const stuck = await startReceiver();
  t.after(() => stuck.close());
  const stopping = await (await ownDatabase(t)).start();
  await talk(stopping).register('q');
  await talk(stopping).put('q', { callback_url: stuck.url() });
  await talk(stopping).complete((await talk(stopping).takeOne('q')).task_id);
  await stuck.next();
  assert.deepEqual(await stopping.stop(), { code: 0, signal: null });
});

test('300 callbacks of two servers arrive each once', async () => {
  const second = await startServer({ url: database.url });
  try {
    const ids = await talk(server).puts('q', 300, { callback_url: receiver.url() });
    for (const one of [server, second]) await talk(one).take('q', { size: 150 });
    const before = receiver.count;
    const arrived = ids.map(async () => {
      const delivery = await receiver.next();
      delivery.answer(200);
      return delivery.headers['x-task-id'] as string;
    });
    await Promise.all(ids.map((id, n) => talk(n % 2 ? server : second).complete(id)));
    assert.deepEqual((await Promise.all(arrived)).sort(), [...ids].sort());
    await until('all are settled', async () => {
      const [row] = await sql(
        `select count(*)::int as left from tasklane.callback_delivery where status = 'pending' and url = $1`,
        [receiver.url()],
      );
      return row.left === 0;
    });
    assert.equal(receiver.count, before + ids.length);
  } finally {
    await second.stop();
  }
});

describe('a server killed with kill -9', () => {
  test('while it delivered has left the callback to the next one, with the same id', async (t) => {
    const { psql: hand, start } = await ownDatabase(t);
    const first = await start();
    await talk(first).register('q');
    const id = await talk(first).put('q', { callback_url: receiver.url() });
    await talk(first).takeOne('q');
    await talk(first).complete(id);
    const lost = await receiver.next();
    await first.kill('SIGKILL');
    lost.answer(200);
    await start();
    // So long nobody else may try what the dead server has claimed; then it is looked for by itself.
    const claimed = await hand.query(
      `update tasklane.callback_delivery set next_at = now() where status = 'pending' and next_at between now() + interval '20 s' and now() + interval '38 s'`,
    );
    assert.equal(claimed.rowCount, 1);
    const again = await receiver.next();
    again.answer(200);
    assert.equal(again.headers['webhook-id'], lost.headers['webhook-id']);
    assert.equal(again.headers['x-task-id'], id);
    assert.equal(again.body, lost.body);
  });

  test('before it delivered has left the callback to the next start, as has an answer in psql meanwhile', async (t) => {
    const { psql: hand, start } = await ownDatabase(t);
    const first = await start();
    await talk(first).register('q');
    const ids = await talk(first).puts('q', 2, { callback_url: receiver.url() });
    await talk(first).take('q', { size: 2 });
    await first.kill('SIGKILL');
    for (const id of ids) await hand.query(`select tasklane.complete($1, 200, '{}')`, [id]);
    await start();
    const told = [await receiver.next(), await receiver.next()];
    for (const delivery of told) delivery.answer(200);
    assert.deepEqual(told.map((delivery) => delivery.headers['x-task-id']).sort(), [...ids].sort());
  });
});

describe('a server that may not call private addresses', () => {
  let strict: Server;
  before(async () => {
    strict = await startServer({ url: database.url, env: { TASKLANE_CALLBACK_ALLOW: '' } });
    await talk(strict).register('strict');
  });
  after(() => strict?.stop());

  const put = (url: string) =>
    strict.request('POST', '/v1/queue/put', { queue: 'strict', endpoint: ENDPOINT, data: {}, callback_url: url });

  test('refuses a put that names one literally, in whatever notation, and one of many', async () => {
    for (const host of [
      '127.0.0.1',
      '10.1.2.3',
      '192.168.0.1',
      '169.254.169.254',
      '[::1]',
      '[fe80::1]',
      '2130706433',
      '0x7f.1',
      '[::ffff:127.0.0.1]',
    ]) {
      const refused = await put(`http://${host}:9/`);
      assert.equal(refused.status, 400, host);
      assert.equal(refused.json.details[0].path, 'callback_url');
    }
    const tasks = ['http://example.com/', 'http://127.0.0.1/'].map((callback_url) => ({
      queue: 'strict',
      endpoint: ENDPOINT,
      data: {},
      callback_url,
    }));
    const refused = await strict.request('POST', '/v1/queue/puts', { tasks });
    assert.equal(refused.status, 400);
    assert.equal(refused.json.details[0].path, 'tasks.1.callback_url');
    assert.deepEqual(await talk(strict).take('strict', { size: 10 }), []);
  });
});

test('a name that leads to a loopback address, and a literal one put in psql, are refused at delivery', async (t) => {
  const { psql: hand, start } = await ownDatabase(t);
  const strict = await start({ env: { TASKLANE_CALLBACK_ALLOW: '' } });
  await talk(strict).register('q');
  const before = receiver.count;
  const byName = await talk(strict).put('q', { callback_url: `http://localhost:${receiver.port}/` });
  const [{ put: byHand }] = (await hand.query(`select tasklane.put('q', '{}', callback_url => $1)`, [receiver.url()]))
    .rows;
  for (const task of await talk(strict).take('q', { size: 2 })) await talk(strict).complete(task.task_id);
  for (const [id, why] of [
    [byName, /localhost resolves to no permitted address/],
    [byHand, /127\.0\.0\.1 is not permitted/],
  ] as const) {
    const kept = await until('the callback was refused', async () => {
      const { json } = await strict.request('GET', '/v1/callbacks');
      return json.data.find((one: Json) => one.task_id === id && one.last_error !== null);
    });
    assert.match(kept.last_error, why);
    assert.equal(kept.last_status, null);
    assert.equal(kept.status, 'pending');
  }
  assert.equal(receiver.count, before);
});
