import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { sql } from 'slonik';
import { startPostgresProxy } from '../../scripts/chaos/postgres-proxy.ts';
import { openDatabase } from '../../server/db/open.ts';
import { createDatabase } from '../support/database.ts';
import { until } from '../support/server.ts';

let database: Awaited<ReturnType<typeof createDatabase>>;
let db: Awaited<ReturnType<typeof openDatabase>>;
let client: pg.Client;
before(async () => {
  database = await createDatabase();
  db = await openDatabase(database.url, { maxConnections: 3 });
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
});
after(async () => {
  await client.end();
  await db.close();
  await database.drop();
});

const session = async () => (await db.query<{ pid: number }>(sql.unsafe`select pg_backend_pid() as pid`))[0]?.pid;
/** Calls that are under way, as many as there are connections, and wait for `go`. */
const callsUnderWay = async (count: number) => {
  await client.query('select pg_advisory_lock(1)');
  const calls = Array.from({ length: count }, () =>
    db.query<{ pid: number }>(
      sql.unsafe`select pg_backend_pid() as pid from (select pg_advisory_xact_lock_shared(1)) l`,
    ),
  );
  for (let waiting = 0; waiting < 3; ) {
    const { rows } = await client.query(
      `select count(*)::int as waiting from pg_stat_activity where datname = current_database() and wait_event = 'advisory'`,
    );
    waiting = rows[0].waiting;
  }
  return { calls, go: () => client.query('select pg_advisory_unlock(1)') };
};

test('calls one after the other use one connection, and calls at once use others, up to the limit', async () => {
  const first = await session();
  assert.equal(await session(), first);
  const { calls, go } = await callsUnderWay(9);
  await go();
  const pids = (await Promise.all(calls)).map(([row]) => row?.pid);
  assert.equal(new Set(pids).size, 3);
  const last = await session();
  assert.equal(await session(), last);
});

test('connections that are ended, free or under way, are replaced; their calls are unavailable for now, and no other fails', async () => {
  for (let round = 0; round < 3; round++) {
    const { calls, go } = await callsUnderWay(6);
    const settled = Promise.allSettled(calls);
    await client.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`,
    );
    await go();
    for (const call of await settled) {
      if (call.status === 'rejected') assert.equal(call.reason.status, 503, call.reason);
    }
    // The first ones may still find that their connection is gone.
    let failed = 0;
    for (let n = 0; n < 20; n++) {
      await session().catch((error) => {
        assert.equal(error.status, 503, error);
        failed++;
      });
    }
    assert.ok(failed <= 3, `${failed} of 20 calls failed`);
    await session();
  }
});

test('what is under way when all is closed comes to its end, and so does what waits for it', async () => {
  const closing = await openDatabase(database.url, { maxConnections: 1 });
  await client.query('select pg_advisory_lock(2)');
  const calls = Array.from({ length: 3 }, () =>
    closing.query(sql.unsafe`select from (select pg_advisory_xact_lock_shared(2)) l`).catch(() => undefined),
  );
  const closed = closing.close();
  await client.query('select pg_advisory_unlock(2)');
  await Promise.all([...calls, closed]);
});

test('a connection that takes too long to end may say what it likes later', async (t) => {
  const { url, drop } = await createDatabase();
  const proxy = await startPostgresProxy(url);
  const slow = await openDatabase(proxy.url, { maxConnections: 2 });
  const psql = new pg.Client({ connectionString: url });
  await psql.connect();
  t.after(async () => {
    await psql.end();
    await proxy.stop();
    await drop();
  });
  const [session] = await slow.query<{ pid: number }>(sql.unsafe`select pg_backend_pid() as pid`);
  proxy.delay(200);
  await slow.close();
  await psql.query('select pg_terminate_backend($1)', [session?.pid]);
  await until(async () => proxy.open === 0);
});
