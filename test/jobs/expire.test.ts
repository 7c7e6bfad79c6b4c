import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { talk, until } from '../acceptance/clients.ts';
import { type Delivery, type Receiver, startReceiver } from '../callbacks/receiver.ts';
import { createDatabase } from '../support/database.ts';
import { type Json, type Server, startServer } from '../support/server.ts';

let database: Awaited<ReturnType<typeof createDatabase>>;
let server: Server;
let psql: pg.Client;
let receiver: Receiver;

const sql = async (text: string, values: unknown[] = []): Promise<Json[]> => (await psql.query(text, values)).rows;
const count = async (from: string): Promise<number> => (await sql(`select count(*)::int as n from ${from}`))[0].n;
/** What the crontab does every minute. */
const expire = () => sql(`select graphile_worker.add_job('expire')`);

before(async () => {
  database = await createDatabase();
  server = await startServer({ url: database.url });
  psql = new pg.Client({ connectionString: database.url });
  await psql.connect();
  receiver = await startReceiver();
});
after(async () => {
  await receiver?.close();
  await psql?.end();
  await server?.stop();
  await database?.drop();
});

/** Lets the deadline of a queue's tasks pass, wherever they are; gives their numbers. */
async function ageQueue(queue: string, which = 'true'): Promise<string[]> {
  const aged = await sql(
    `update tasklane.task set expires_at = now() - interval '1 second'
     where lane_id in (select lane_id from tasklane.lane join tasklane.queue using (queue_id) where queue = $1) and ${which}
     returning id`,
    [queue],
  );
  const ids = aged.map((row) => row.id);
  for (const table of ['ready', 'running', 'deferred'])
    await sql(`update tasklane.${table} set expires_at = now() - interval '1 second' where id = any($1)`, [ids]);
  return ids;
}

/** Makes a running task wait for a time, as a release does. */
async function defer(taskId: string): Promise<void> {
  const { length } = await sql(
    `with gone as (delete from tasklane.running where id = tasklane.parse_task_id($1) returning *)
     insert into tasklane.deferred (id, expires_at, run_at, lane_id, attempt, rank)
     select id, expires_at, now() + interval '1 hour', lane_id, attempt, rank from gone returning id`,
    [taskId],
  );
  assert.equal(length, 1);
}

test('a callback task past its deadline ends expired wherever it is, and its callback tells 408', async () => {
  await talk(server).register('q');
  const put = () => talk(server).put('q', { callback_url: receiver.url(), timeout: 600 });
  const deferred = await put();
  await talk(server).takeOne('q');
  await defer(deferred);
  const running = await put();
  await talk(server).takeOne('q');
  const waiting = await put();
  const ids = [waiting, running, deferred];
  assert.deepEqual(await Promise.all(ids.map(async (id) => (await talk(server).task(id)).status)), [
    'waiting',
    'running',
    'deferred',
  ]);
  await ageQueue('q');
  const young = [await put(), await put()];
  assert.deepEqual(
    (await talk(server).take('q', { size: 1 })).map((task) => task.task_id),
    [young[0]],
  );
  await expire();
  const told = new Map<string, Delivery>();
  for (const _ of ids) {
    const delivery = await receiver.next();
    delivery.answer(200);
    told.set(delivery.headers['x-task-id'] as string, delivery);
  }
  for (const id of ids) {
    const { error, ...rest } = JSON.parse(told.get(id)?.body ?? '{}');
    assert.deepEqual(rest, { status_code: 408, request_id: id });
    assert.match(error.message, /deadline/);
    const task = await talk(server).task(id);
    assert.equal(task.status, 'expired');
    assert.ok(task.completed_time > 0);
    const late = await server.request('POST', `/v1/queue/${id}/complete`, { status_code: 200, body: {} });
    assert.equal(late.status, 409);
    assert.match(late.json.message, /expired/);
  }
  assert.deepEqual(await Promise.all(young.map(async (id) => (await talk(server).task(id)).status)), [
    'running',
    'waiting',
  ]);
  assert.equal(await count('tasklane.deferred'), 0);
});

test('a task put with a timeout of 1 s expires after it', async () => {
  await talk(server).register('short');
  const id = await talk(server).put('short', { callback_url: receiver.url(), timeout: 1 });
  const arrived = receiver.next();
  let over = false;
  const told = arrived.then((delivery) => {
    over = true;
    return delivery;
  });
  await until('the job finds it', async () => {
    await expire();
    return over;
  });
  const delivery = await told;
  delivery.answer(200);
  assert.equal(delivery.headers['x-task-id'], id);
  assert.equal(JSON.parse(delivery.body).status_code, 408);
  const task = await talk(server).task(id);
  assert.equal(task.status, 'expired');
  assert.ok(task.completed_time - task.start_time >= 1000);
});

test('12,000 expired tasks among 20,000 that wait are all ended, and no other', async () => {
  const lanes = [0, 1, 2, 3].map((level) => ({ level, priority: ['low', 'high'][level % 2] }));
  await talk(server).register('many');
  const ids: string[] = [];
  for (let n = 0; n < 20; n++) ids.push(...(await talk(server).puts('many', 1000, lanes[n % 4])));
  const old = await ageQueue('many', `(data->>'n')::int % 5 < 3`);
  assert.equal(old.length, 12_000);
  await expire();
  const queued = `tasklane.ready join tasklane.lane using (lane_id) join tasklane.queue using (queue_id) where queue = 'many'`;
  await until('8,000 are left', async () => (await count(queued)) === 8000);
  const stats = await Promise.all(
    lanes.map(async ({ level }) => (await server.request('GET', `/v1/queue/many:${level}/stats`)).json),
  );
  assert.equal(
    stats.reduce((sum, one) => sum + one.waiting, 0),
    8000,
  );
  assert.equal(
    stats.reduce((sum, one) => sum + one.total_completed_cnt, 0),
    12_000,
  );
  const ended = await sql(
    `select outcome, status_code, count(*)::int as n from tasklane.result
     where id = any($1) group by 1, 2`,
    [old],
  );
  assert.deepEqual(ended, [{ outcome: 'expired', status_code: 408, n: 12_000 }]);
  const left: string[] = [];
  for (const { level } of lanes) {
    const answer = await Promise.all(
      [1, 2].map(() => server.request('POST', '/v1/queue/take', { queues: [`many:${level}`], size: 1000 })),
    );
    for (const { json } of answer) left.push(...(json[`many:${level}`] ?? []).map((task: Json) => task.task_id));
  }
  assert.deepEqual(left.sort(), ids.filter((_, n) => n % 5 >= 3).sort());
});

test('2,500 running tasks past their deadline are all ended', async () => {
  await talk(server).register('taken');
  for (const size of [1000, 1000, 500]) {
    await talk(server).puts('taken', size);
    assert.equal((await talk(server).take('taken', { size: 1000 })).length, size);
  }
  await ageQueue('taken');
  await expire();
  await until('none runs', async () => {
    const { json } = await server.request('GET', '/v1/queue/taken:0/stats');
    return json.running === 0 && json.total_completed_cnt === 2500;
  });
});

test('a blocking task whose server is gone expires by the job of another', async (t) => {
  await talk(server).register('left');
  const doomed = await startServer({ url: database.url });
  t.after(() => doomed.kill());
  const lost = assert.rejects(talk(doomed).ask('left', { timeout: 600 }));
  const { task_id: id } = await talk(server).takeOne('left');
  await doomed.kill('SIGKILL');
  await lost;
  assert.equal((await talk(server).task(id)).status, 'running');
  await ageQueue('left');
  await expire();
  await until(
    'it has ended',
    async () => (await count('tasklane.running')) === (await count('tasklane.running where expires_at > now()')),
  );
  assert.equal((await talk(server).task(id)).result.status_code, 408);
});
