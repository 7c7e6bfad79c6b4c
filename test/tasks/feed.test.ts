import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { pino } from 'pino';
import type { Principal } from '../../server/auth/auth.ts';
import { openDatabase } from '../../server/db/open.ts';
import { createFeed } from '../../server/tasks/feed.ts';
import { testDatabase } from '../support/sql.ts';

const database = await testDatabase();
const psql = await database.open();
const db = await openDatabase(database.url, { maxConnections: 4 });
after(db.close);
const feed = createFeed(db, pino({ level: 'silent' }), 60);
after(feed.stop);

const admin: Principal = { keyId: null, role: 'admin', tenant: 'default', tenantId: 1 };
const id = (await psql.putOne({ queue: await psql.register('q') })).id;
const record = (count: number, type: string, data: unknown = null) =>
  psql.run(
    'select tasklane.record_events($1, $2, array_fill($3::bigint, $4), array_fill(1, $4), array_fill($5::text, $4))',
    [type, 'running', id, [count], JSON.stringify(data)],
  );

async function follow(types: ('progress' | 'dead')[] | null) {
  const controller = new AbortController();
  const events = (await feed.open({ types }, admin))(controller.signal);
  return {
    next: async () => (await events.next()).value,
    close: () => controller.abort(),
  };
}

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;
const memory = () => {
  collectGarbage();
  return process.memoryUsage().heapUsed / 1e6;
};

test('what waits for a slow reader takes no more memory than a megabyte or a thousand events', async () => {
  const [slow, quick] = [await follow(null), await follow(['dead'])];
  const first = slow.next();
  const pass = async () => {
    for (let n = 0; n < 5; n++) await record(100, 'progress', 'x'.repeat(20_000));
    const dead = quick.next();
    await record(1, 'dead');
    return dead;
  };
  await pass();
  const { number } = (await first) as { number: number };
  const before = memory();
  await pass();
  await pass();
  const grown = memory() - before;
  assert.ok(grown < 6, `${grown} MB more for 20 MB that nobody reads`);
  for (let n = 1; n < 1503; n++) assert.equal(((await slow.next()) as { number: number }).number, number + n);
  for (const one of [slow, quick]) one.close();
});

test('nothing is asked of the database when no feed is open', async () => {
  const one = await follow(null);
  const next = one.next();
  await record(1, 'dead');
  await next;
  one.close();
  assert.equal(await one.next(), undefined);
  const calls = db.call;
  let called = 0;
  db.call = (...call) => {
    called++;
    return calls(...call);
  };
  await feed.stop();
  feed.rouse();
  assert.equal(called, 0);
});
