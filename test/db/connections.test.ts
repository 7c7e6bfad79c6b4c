import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import pg from 'pg';
import { sql } from 'slonik';
import { startPostgresProxy } from '../../scripts/chaos/postgres-proxy.ts';
import { openDatabase } from '../../server/db/open.ts';
import { readLaneStats } from '../../server/db/queues.ts';
import { createDatabase } from '../support/database.ts';
import { until } from '../support/server.ts';

const LIMIT_MS = 1500;

/** A database of its own behind a proxy, and a session in it that goes past that. */
async function behindProxy(t: TestContext, maxConnections: number) {
  const database = await createDatabase();
  const proxy = await startPostgresProxy(database.url);
  const db = await openDatabase(proxy.url, { maxConnections, limitMs: LIMIT_MS });
  const psql = new pg.Client({ connectionString: database.url });
  await psql.connect();
  t.after(async () => {
    await db.close();
    await psql.end();
    await proxy.stop();
    await database.drop();
  });
  return { proxy, db, psql, url: database.url };
}

const away = { status: 503, headers: { 'Retry-After': '1' } };

test('a database that takes a connection and never answers is unavailable for now, not an error of ours', async (t) => {
  const { proxy, db } = await behindProxy(t, 1);
  assert.deepEqual(await readLaneStats(db), []);
  proxy.newConnections('hang');
  proxy.cut();
  // The first call notices that its connection is gone; the next one makes another.
  await assert.rejects(readLaneStats(db), away);
  await assert.rejects(readLaneStats(db), away);
  proxy.newConnections('work');
  await until(() => readLaneStats(db).catch(() => undefined));
});

test('of connections that fell silent one call finds out, and what comes next has new ones', async (t) => {
  const { proxy, db } = await behindProxy(t, 4);
  await Promise.all(Array.from({ length: 4 }, () => db.query(sql.unsafe`select pg_sleep(0.05)`)));
  assert.equal(proxy.open, 4);
  proxy.swallow();
  await assert.rejects(readLaneStats(db), away);
  assert.deepEqual(await readLaneStats(db), []);
});

test('a call that is given up leaves Postgres, too, though it waits for a lock', async (t) => {
  const { db, psql } = await behindProxy(t, 2);
  await psql.query('begin; lock table tasklane.queue in access exclusive mode');
  await assert.rejects(readLaneStats(db), away);
  const waiting = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
  await until(async () => {
    await psql.query('select pg_stat_clear_snapshot()');
    return (await psql.query(waiting)).rowCount === 0;
  });
  await psql.query('rollback');
  assert.deepEqual(await readLaneStats(db), []);
});

test('while Postgres gives no more connections, calls wait for those that are there', async (t) => {
  const { proxy, db } = await behindProxy(t, 3);
  await readLaneStats(db);
  proxy.newConnections('refuse');
  const calls = Array.from({ length: 20 }, () => readLaneStats(db));
  for (const call of await Promise.all(calls)) assert.deepEqual(call, []);
  assert.equal(proxy.open, 1);
});

test('a call that waits for a connection is given up in time, and the one that has it goes on', async (t) => {
  const { db } = await behindProxy(t, 1);
  const long = db.query(sql.unsafe`select pg_sleep(2.5) is null as asleep`, 'long');
  await assert.rejects(readLaneStats(db), away);
  assert.deepEqual(await long, [{ asleep: false }]);
});

test('what a statement failed for that may pass leaves its connection as it was', async (t) => {
  const { db } = await behindProxy(t, 1);
  const pid = async () => (await db.query<{ pid: number }>(sql.unsafe`select pg_backend_pid() as pid`))[0]?.pid;
  const before = await pid();
  for (const code of ['57014', '40P01', '40001', '55P03', '53100']) {
    const raise = `do $$ begin raise exception 'passes' using errcode = '${code}'; end $$`;
    await assert.rejects(db.query({ ...sql.unsafe``, sql: raise }), away, code);
  }
  assert.equal(await pid(), before);
});

test('whatever the database has set, sessions read and write as ours do', async (t) => {
  const { psql, url } = await behindProxy(t, 1);
  const name = new URL(url).pathname.slice(1);
  const odd: Record<string, string> = {
    datestyle: "'SQL, DMY'",
    intervalstyle: 'sql_standard',
    timezone: "'Asia/Tokyo'",
    bytea_output: 'escape',
    extra_float_digits: '-15',
    standard_conforming_strings: 'off',
    search_path: 'nowhere',
    default_transaction_isolation: 'serializable',
    statement_timeout: "'1ms'",
  };
  for (const [setting, value] of Object.entries(odd))
    await psql.query(`alter database ${name} set ${setting} = ${value}`);
  const db = await openDatabase(url, { maxConnections: 1 });
  t.after(db.close);
  const [row] = await db.query(sql.unsafe`
    select timestamptz '2026-12-01T00:00:00Z' as at, make_interval(days => 1)::text as span, decode('00', 'hex') as bytes, 0.1::float8 + 0.2 as sum,
           current_setting('transaction_isolation') as isolation, current_setting('search_path') as path, pg_sleep(0.02) is null as asleep`);
  assert.deepEqual(row, {
    at: Date.UTC(2026, 11, 1),
    span: '1 day',
    bytes: Buffer.from([0]),
    sum: 0.1 + 0.2,
    isolation: 'read committed',
    path: 'pg_catalog',
    asleep: false,
  });
});
