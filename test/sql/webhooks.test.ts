import assert from 'node:assert/strict';
import { test } from 'node:test';
import { code, hold, type Session, testDatabase, untilBlocked } from '../support/sql.ts';

const database = await testDatabase();
const [db, second, watcher] = (await Promise.all([database.open(), database.open(), database.open()])) as [
  Session,
  Session,
  Session,
];

const tenant = () => db.value<number>('select tasklane.make_tenant($1)', [database.name()]);
const make = (tenantId: number, session = db): Promise<string> =>
  session.value(
    `select endpoint_id from tasklane.create_webhook_endpoint($1, 'x', 'http://example.com/', '{batch.completed}')`,
    [tenantId],
  );
const send = (tenantId: number, session = db): Promise<number> =>
  session.value(`select tasklane.send_webhooks($1, 'batch.completed', '{"id":"BATCH-1"}')`, [tenantId]);
const deliveries = (tenantId: number) =>
  db.rows<{ delivery_id: bigint; url: string }>(
    'select delivery_id, url from tasklane.callback_delivery where tenant_id = $1',
    [tenantId],
  );

test('random ids are of the length asked for, and all letters and digits come equally often', async () => {
  assert.match(await db.value("select tasklane.random_id('file-')"), /^file-[0-9A-Za-z]{22}$/);
  assert.equal((await db.value<string>("select tasklane.random_id('', 100)")).length, 100);
  const text = await db.value<string>("select tasklane.random_id('', 62000)");
  const counts = new Map<string, number>();
  for (const letter of text) counts.set(letter, (counts.get(letter) ?? 0) + 1);
  assert.equal(counts.size, 62);
  // 1,000 each, give or take seven standard deviations. A byte modulo 62 would give eight of them 1,210.
  let squares = 0;
  for (const count of counts.values()) squares += (count - 1000) ** 2 / 1000;
  assert.ok(squares < 61 + 7 * Math.sqrt(122), `chi-squared ${squares}`);
});

test('an endpoint that is deleted while an event is being sent to it takes that along', async () => {
  const tenantId = await tenant();
  const id = await make(tenantId);
  const [sent, end] = await hold(db, () => send(tenantId));
  assert.equal(sent, 1);
  const deleted = second.value('select tasklane.delete_webhook_endpoint($1)', [id]);
  await untilBlocked(watcher, second);
  await end('commit');
  assert.equal(await deleted, true);
  assert.deepEqual(await deliveries(tenantId), []);
});

test('an event that is sent while its endpoint is being deleted goes nowhere', async () => {
  const tenantId = await tenant();
  const id = await make(tenantId);
  const [, end] = await hold(db, () => db.value('select tasklane.delete_webhook_endpoint($1)', [id]));
  const sent = send(tenantId, second);
  await untilBlocked(watcher, second);
  await end('commit');
  assert.equal(await sent, 0);
  assert.deepEqual(await deliveries(tenantId), []);
});

test('an event goes to the URL of now, whichever of it and a change of the URL comes first', async () => {
  const url = 'http://example.com/new';
  const change = (id: string, session: Session) =>
    session.value('select url from tasklane.update_webhook_endpoint($1, p_url => $2)', [id, url]);
  for (const sendFirst of [true, false]) {
    const tenantId = await tenant();
    const id = await make(tenantId);
    const [, end] = await hold<unknown>(db, () => (sendFirst ? send(tenantId) : change(id, db)));
    const other = sendFirst ? change(id, second) : send(tenantId, second);
    await untilBlocked(watcher, second);
    await end('commit');
    await other;
    assert.deepEqual(
      (await deliveries(tenantId)).map((delivery) => delivery.url),
      [url],
    );
  }
});

test('an event is not retried while its endpoint is being deleted', async () => {
  const tenantId = await tenant();
  const id = await make(tenantId);
  await send(tenantId);
  await db.run("update tasklane.callback_delivery set status = 'failed', finished_at = now() where tenant_id = $1", [
    tenantId,
  ]);
  const [delivery] = await deliveries(tenantId);
  const [, end] = await hold(db, () => db.value('select tasklane.delete_webhook_endpoint($1)', [id]));
  const retried = second.value('select tasklane.retry_callback($1)', [delivery?.delivery_id]).then(
    () => undefined,
    (error: unknown) => error,
  );
  await untilBlocked(watcher, second);
  await end('commit');
  assert.ok(code('TL404')(await retried));
});

test('a tenant has 100 endpoints at most, whoever else makes one at the same time', async () => {
  const tenantId = await tenant();
  for (let n = 0; n < 99; n++) await make(tenantId);
  const [, end] = await hold(db, () => make(tenantId));
  const late = make(tenantId, second).catch((error: unknown) => error);
  await untilBlocked(watcher, second);
  await end('commit');
  assert.ok(code('TL400')(await late));
});

test('events that were settled a week ago go with the callbacks', async () => {
  const tenantId = await tenant();
  await make(tenantId);
  for (let n = 0; n < 3; n++) await send(tenantId);
  const [old, young] = await deliveries(tenantId);
  const settle = (id: bigint | undefined, ago: string) =>
    db.run(
      `update tasklane.callback_delivery set status = 'delivered', finished_at = now() - $2::interval where delivery_id = $1`,
      [id, ago],
    );
  await settle(old?.delivery_id, '8 days');
  await settle(young?.delivery_id, '6 days');
  assert.equal(await db.value('select tasklane.remove_leftovers()'), false);
  const left = (await deliveries(tenantId)).map((delivery) => delivery.delivery_id);
  assert.equal(left.length, 2);
  assert.ok(!left.includes(old?.delivery_id as bigint));
});

test('an event holds up neither the removal of tasks nor that of whole days', async () => {
  const tenantId = await tenant();
  await make(tenantId);
  await send(tenantId);
  await db.run('select tasklane.make_partitions(0)');
  await db.register('days');
  const { id } = await db.putOne({ queue: 'days' });
  await db.take(['days:0']);
  await db.complete([{ id }]);
  assert.deepEqual(await db.rows('select id from tasklane.remove_tasks($1)', [[id]]), [{ id }]);
  assert.equal(await db.value("select tasklane.is_day_over((now() at time zone 'UTC')::date)"), true);
  assert.equal((await deliveries(tenantId)).length, 1);
});
