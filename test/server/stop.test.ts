import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import pg from 'pg';
import { startPostgresProxy } from '../../scripts/chaos/postgres-proxy.ts';
import { postmasterPid } from '../../scripts/chaos/postmaster.ts';
import { createDatabase } from '../support/database.ts';
import { LONG } from '../support/long.ts';
import { startServer, until } from '../support/server.ts';

const CHAT = '/v1/chat/completions';

test('a server that stops does not wait for connections on which nothing was asked', async () => {
  const server = await startServer();
  const silent = connect(Number(new URL(server.url).port), '127.0.0.1');
  silent.on('error', () => undefined);
  await once(silent, 'connect');
  // Comes after it, so that the server has seen both.
  await server.request('GET', '/health');
  assert.deepEqual(await server.stop(), { code: 0, signal: null });
});

test('a server that stops answers takes that wait, and lets clients that wait have their answers', async () => {
  const server = await startServer();
  await server.request('POST', '/v1/queue/register', { queue: 'q', endpoint: CHAT });
  const put = { queue: 'q', endpoint: CHAT, data: {}, response_mode: 'blocking' };
  const blocking = server.request('POST', '/v1/queue/put', put);
  const take = { queues: ['q:0'], size: 1, wait: 20 };
  const { task_id } = (await server.request('POST', '/v1/queue/take', take)).json['q:0'][0];
  const idle = server.request('POST', '/v1/queue/take', take);
  await server.request('GET', '/health');
  const exited = server.stop();
  assert.equal((await idle).text, '{}');
  const psql = new pg.Client({ connectionString: server.databaseUrl });
  await psql.connect();
  await psql.query('select tasklane.complete($1, 200, $2)', [task_id, '{"late":true}']);
  await psql.end();
  const answer = await blocking;
  assert.deepEqual(answer.json, { late: true });
  assert.equal(answer.headers.get('connection'), 'close');
  assert.deepEqual(await exited, { code: 0, signal: null });
});

test('a client that still waits at the end is told to come again, and its task is withdrawn', LONG, async () => {
  const server = await startServer();
  await server.request('POST', '/v1/queue/register', { queue: 'q', endpoint: CHAT });
  const put = { queue: 'q', endpoint: CHAT, data: {}, response_mode: 'blocking' };
  const blocking = server.request('POST', '/v1/queue/put', put);
  const psql = new pg.Client({ connectionString: server.databaseUrl });
  await psql.connect();
  const states = async () => (await psql.query('select status from tasklane.task_status')).rows;
  await until(async () => (await states()).length === 1);
  const exited = server.kill('SIGTERM');
  const { status, headers } = await blocking;
  assert.deepEqual([status, headers.get('retry-after'), headers.get('connection')], [503, '1', 'close']);
  assert.deepEqual(await exited, { code: 0, signal: null });
  assert.deepEqual(await states(), [{ status: 'cancelled' }]);
  await psql.end();
});

test('a server whose database has fallen silent stops all the same', async (t) => {
  const database = await createDatabase();
  const proxy = await startPostgresProxy(database.url);
  t.after(async () => {
    await proxy.stop();
    await database.drop();
  });
  const server = await startServer({ url: proxy.url, env: { TASKLANE_LOG_LEVEL: 'silent' } });
  proxy.newConnections('hang');
  proxy.swallow(1, false);
  const began = performance.now();
  const late = setTimeout(() => void server.kill('SIGKILL'), 30_000);
  assert.deepEqual((await server.kill('SIGTERM')).signal, null);
  clearTimeout(late);
  assert.ok(performance.now() - began < 15_000);
});

test('a second SIGTERM ends a server at once, and its embedded Postgres with it', async (t) => {
  const dataDir = await mkdtemp(join(tmpdir(), 'tasklane-stop-'));
  t.after(() => rm(dataDir, { recursive: true, force: true }));
  // As root, Postgres runs as a user who must be able to enter the folder.
  await chmod(dataDir, 0o711);
  const server = await startServer({ url: '', env: { TASKLANE_DATA_DIR: dataDir, TASKLANE_LOG_LEVEL: 'silent' } });
  await server.request('POST', '/v1/queue/register', { queue: 'q', endpoint: CHAT });
  const put = { queue: 'q', endpoint: CHAT, data: {}, response_mode: 'blocking' };
  const cut = server.request('POST', '/v1/queue/put', put).catch(() => undefined);
  await until(async () => (await server.request('GET', '/v1/tasks')).text.includes('TASK-q-'));
  const postmaster = postmasterPid(dataDir) as number;
  void server.kill('SIGTERM');
  // By then it has seen the first: it takes no more connections.
  await until(async () =>
    fetch(`${server.url}/health/live`).then(
      () => false,
      () => true,
    ),
  );
  assert.deepEqual(await server.kill('SIGTERM'), { code: 1, signal: null });
  await cut;
  await until(async () => {
    try {
      return process.kill(postmaster, 0) && false;
    } catch {
      return true;
    }
  });
});
