import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { test } from 'node:test';
import pg from 'pg';
import { startServer } from '../support/server.ts';

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
  assert.deepEqual((await blocking).json, { late: true });
  assert.deepEqual(await exited, { code: 0, signal: null });
});
