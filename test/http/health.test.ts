import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import pg from 'pg';
import { pino } from 'pino';
import { startPostgresProxy } from '../../scripts/chaos/postgres-proxy.ts';
import { startEmbeddedPostgres } from '../../server/db/embedded.ts';
import { createDatabase } from '../support/database.ts';
import { type Server, startServer, until } from '../support/server.ts';

const CHAT = '/v1/chat/completions';
const put = (server: Server) => server.request('POST', '/v1/queue/put', { queue: 'q', endpoint: CHAT, data: {} });

/** A server whose connections go through a proxy, with a queue; and a session that goes past that. */
async function behindProxy(t: TestContext, env: Record<string, string> = {}, url?: string) {
  const database = url === undefined ? await createDatabase() : { url, drop: async () => undefined };
  const proxy = await startPostgresProxy(database.url);
  const server = await startServer({
    url: proxy.url,
    env: { TASKLANE_LOG_LEVEL: 'silent', TASKLANE_DATABASE_SECONDS: '2', ...env },
  });
  const psql = new pg.Client({ connectionString: database.url });
  await psql.connect();
  t.after(async () => {
    await server.kill();
    await psql.end();
    await proxy.stop();
    await database.drop();
  });
  await server.request('POST', '/v1/queue/register', { queue: 'q', endpoint: CHAT });
  return { server, proxy, psql, name: new URL(database.url).pathname.slice(1) };
}

/** What is answered within two seconds, and a little for the way. */
async function ask(server: Server, path: string) {
  const { status, json } = await server.request('GET', path, undefined, {
    key: null,
    signal: AbortSignal.timeout(2500),
  });
  return { status, json };
}
const UP = { status: 200, json: { status: 'UP' } };
const live = (server: Server) => ask(server, '/health/live');
const ready = (server: Server) => ask(server, '/health/ready');

/** Resolves when the server is not ready, and says why in such words. */
const down = (server: Server, reason: RegExp) =>
  until(async () => {
    const { status, json } = await ready(server);
    return status === 503 && json.status === 'DOWN' && reason.test(json.reason);
  });

test('a server is alive and ready, and says so without a key', async (t) => {
  const { server } = await behindProxy(t);
  for (const path of ['/health', '/actuator/health', '/health/live', '/health/ready'])
    assert.deepEqual(await ask(server, path), UP, path);
});

test('while Postgres is silent everybody who asks hears so within two seconds, and the process is alive', async (t) => {
  const { server, proxy } = await behindProxy(t);
  proxy.newConnections('hang');
  proxy.swallow(1, false);
  const asked = Array.from({ length: 50 }, (_, n) => ask(server, n % 2 ? '/health' : '/health/ready'));
  for (const { status } of await Promise.all(asked)) assert.equal(status, 503);
  await down(server, /no answer/);
  assert.deepEqual(await live(server), UP);
  proxy.newConnections('work');
  await until(async () => (await ready(server)).status === 200 && (await ask(server, '/health')).status === 200);
  assert.equal((await put(server)).status, 200);
});

test('a table that somebody holds is named, with who holds it, and puts are a 503 to be repeated', async (t) => {
  const { server, psql } = await behindProxy(t);
  await psql.query('begin; alter table tasklane.task add column note text');
  const { rows } = await psql.query('select pg_backend_pid() as pid');
  const waiting = put(server);
  await down(server, new RegExp(`lock on tasklane.task held by pid ${rows[0].pid} .* since 20`));
  const { status, headers } = await waiting;
  assert.deepEqual([status, headers.get('retry-after')], [503, '1']);
  assert.deepEqual(await live(server), UP);
  await psql.query('rollback');
  await until(async () => (await ready(server)).status === 200);
  assert.equal((await put(server)).status, 200);
});

test('what keeps writes from going through is told in words', async (t) => {
  const { server, proxy, psql, name } = await behindProxy(t);
  await psql.query(`alter database ${name} set default_transaction_read_only = on`);
  proxy.cut();
  await down(server, /read-only/);
  await psql.query(
    `set default_transaction_read_only = off; alter database ${name} reset default_transaction_read_only`,
  );
  proxy.cut();
  await until(async () => (await ready(server)).status === 200);
});

test('a server that has a connection is up though Postgres gives it no other', async (t) => {
  const { server, proxy } = await behindProxy(t, { TASKLANE_MAX_CONNECTIONS: '10' });
  proxy.newConnections('refuse');
  const all = await Promise.all([
    ...Array.from({ length: 20 }, () => put(server)),
    ...Array.from({ length: 20 }, () => server.request('GET', '/v1/tasks')),
    ...Array.from({ length: 5 }, () => ask(server, '/health')),
    ...Array.from({ length: 5 }, () => ready(server)),
  ]);
  for (const { status } of all) assert.equal(status, 200);
});

test('an outage is a line a second in the log, with how many calls it hit', async (t) => {
  const { server, proxy } = await behindProxy(t, { TASKLANE_LOG_LEVEL: 'warn' });
  const before = server.stderr.length;
  const began = performance.now();
  proxy.newConnections('refuse');
  proxy.cut();
  let refused = 0;
  while (performance.now() - began < 3000)
    for (const { status } of await Promise.all(Array.from({ length: 20 }, () => put(server))))
      if (status === 503) refused++;
  assert.ok(refused > 20);
  proxy.newConnections('work');
  const lines = () =>
    server.stderr
      .slice(before)
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  const told = () => lines().filter(({ msg }) => msg === 'the database is unavailable');
  await until(async () => told().reduce((sum, { times }) => sum + times, 0) >= refused);
  const seconds = (performance.now() - began) / 1000;
  assert.ok(told().length <= seconds + 2, `${told().length} lines in ${seconds} s`);
  assert.ok(lines().length <= seconds + 5, server.stderr.slice(before));
});

test('while the synchronous standby is away, commits are a 503, sessions stay few, and it is said', async (t) => {
  const dataDir = await mkdtemp(join(tmpdir(), 'tasklane-health-'));
  // As root, Postgres runs as a user who must be able to enter the folder.
  await chmod(dataDir, 0o711);
  const postgres = await startEmbeddedPostgres({
    dataDir,
    owner: 'test',
    log: pino({ level: 'silent' }),
    durable: false,
  });
  const { server, psql } = await behindProxy(t, { TASKLANE_DATABASE_SECONDS: '1' }, postgres.url);
  t.after(async () => {
    await postgres.stop();
    await rm(dataDir, { recursive: true, force: true });
  });
  const standby = async (names: string) => {
    await psql.query(`alter system set synchronous_standby_names = '${names}'`);
    await psql.query('select pg_reload_conf()');
  };
  await psql.query('set synchronous_commit = local');
  await standby('far_away');
  await down(server, /synchronous standby is away/);
  const until8 = Date.now() + 8000;
  const seen = new Set<number>();
  while (Date.now() < until8) for (const { status } of await Promise.all([put(server), put(server)])) seen.add(status);
  assert.deepEqual([...seen], [503]);
  const { rows } = await psql.query(
    `select count(*)::int as sessions from pg_stat_activity where wait_event = 'SyncRep'`,
  );
  assert.ok(rows[0].sessions <= 8, `${rows[0].sessions} sessions`);
  await standby('');
  await until(async () => (await ready(server)).status === 200);
  assert.equal((await put(server)).status, 200);
});
