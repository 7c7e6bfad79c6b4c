import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import pg from 'pg';
import { openDatabase } from '../../server/db/open.ts';
import { createVacuum } from '../../server/jobs/vacuum.ts';
import { createDatabase } from '../support/database.ts';

let database: Awaited<ReturnType<typeof createDatabase>>;
let db: Awaited<ReturnType<typeof openDatabase>>;
let client: pg.Client;
before(async () => {
  database = await createDatabase();
  db = await openDatabase(database.url, { maxConnections: 1 });
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
  // So that it does not come between.
  await client.query('alter table tasklane.ready set (autovacuum_enabled = off)');
});
after(async () => {
  await client.end();
  await db.close();
  await database.drop();
});
beforeEach(() => client.query('vacuum tasklane.ready'));

const come = (count: number) =>
  client.query(
    `with made as (insert into tasklane.ready (id, expires_at, lane_id, attempt, rank) select n, now(), 1, 0, 95 from generate_series(1, $1::int) n)
     select 1`,
    [count],
  );
const go = async () => {
  await client.query('delete from tasklane.ready');
  await client.query('select pg_stat_force_next_flush()');
  await client.query('select 1');
};
const stats = async () => {
  const { rows } = await client.query(
    `select n_dead_tup::int as dead, vacuum_count::int as vacuums from pg_stat_user_tables where schemaname = 'tasklane' and relname = 'ready'`,
  );
  return rows[0] as { dead: number; vacuums: number };
};

test('what was deleted is cleaned up once there is much of it', async () => {
  const look = createVacuum(db);
  await come(2_000);
  await go();
  const few = await stats();
  await look();
  assert.deepEqual(await stats(), few);

  await come(12_000);
  await go();
  await look();
  assert.deepEqual(await stats(), { dead: 0, vacuums: few.vacuums + 1 });
});

test('while a session holds an old snapshot it is tried ever more seldom, and again when that is over', async () => {
  let now = 0;
  const look = createVacuum(db, () => now);
  await come(12_000);
  const holder = new pg.Client({ connectionString: database.url });
  await holder.connect();
  await holder.query('begin isolation level repeatable read');
  await holder.query('select count(*) from tasklane.ready');
  await go();
  const { vacuums: before } = await stats();
  const after = async (ms: number) => {
    now += ms;
    await look();
    return (await stats()).vacuums - before;
  };
  assert.equal(await after(0), 1);
  assert.equal(await after(10_000), 1);
  assert.equal(await after(10_000), 2);
  assert.equal(await after(20_000), 2);
  assert.equal(await after(20_000), 3);
  assert.ok((await stats()).dead >= 12_000);
  await holder.end();
  assert.equal(await after(80_000), 4);
  assert.equal((await stats()).dead, 0);
});
