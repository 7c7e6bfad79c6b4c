import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ADMIN_KEY, ownDatabase, type Server } from '../../support/server.ts';
import { runHere as run } from './tasklane.ts';

const CHAT = '/v1/chat/completions';
type Check = { name: string; state: string; message: string; advice?: string };

/** What doctor finds, by name, and the exit code. */
async function doctor(server: Server, more = '', key = ADMIN_KEY) {
  Object.assign(process.env, { TASKLANE_URL: server.url, TASKLANE_API_KEY: key });
  const { code, stdout } = await run(`doctor --json ${more}`);
  const checks = JSON.parse(stdout) as Check[];
  return { code, of: (name: string) => checks.find((check) => check.name === name) };
}

test('doctor sends a task through a queue of its own, and leaves nothing behind', async (t) => {
  const { psql, start } = await ownDatabase(t);
  const server = await start();
  const { code, of } = await doctor(server);
  assert.equal(code, 0);
  assert.match(of('a task')?.message ?? '', /was put, taken and answered/);
  assert.deepEqual(of('writes'), { name: 'writes', state: 'ok', message: 'go through' });
  for (const name of ['workers', 'waiting', 'dead tasks']) assert.equal(of(name)?.state, 'ok', name);
  assert.equal((await psql.query('select from tasklane.queue where deleted_at is null')).rowCount, 0);
  const client = await doctor(server, '', await server.key('client'));
  assert.deepEqual([client.code, client.of('a task'), client.of('key')?.state], [0, undefined, 'ok']);
  const wrong = await doctor(server, '', 'sk-of-another-server');
  assert.match(wrong.of('key')?.advice ?? '', /set TASKLANE_API_KEY/);
});

test('doctor names lanes without a worker, old lanes, paused ones and dead tasks', async (t) => {
  const { psql, start } = await ownDatabase(t);
  const server = await start();
  for (const queue of ['alone', 'old', 'shut', 'fragile']) {
    await server.request('POST', '/v1/queue/register', { queue, endpoint: CHAT, max_attempts: 1 });
    await server.request('POST', '/v1/queue/put', { queue, endpoint: CHAT, data: {} });
  }
  await server.request('POST', '/v1/queue/shut/pause');
  await psql.query(`update tasklane.task set created_at = created_at - interval '1 hour'`);
  const worker = { id: 'w', name: 'the one' };
  const take = { queues: ['fragile:0', 'old:7'], size: 1, worker };
  const [task] = (await server.request('POST', '/v1/queue/take', take)).json['fragile:0'];
  await server.request('POST', `/v1/queue/${task.task_id}/release`, { reason: 'broken' });
  await server.request('POST', '/v1/queue/take', {
    queues: ['old:0', 'old:1'],
    size: 1,
    min_age_seconds: 3600,
    worker,
  });
  const { code, of } = await doctor(server);
  assert.equal(code, 0, 'warnings are no problems');
  assert.match(of('workers')?.message ?? '', /alone:0 \(1, the oldest for /);
  assert.doesNotMatch(of('workers')?.message ?? '', /shut|old:0/);
  assert.match(of('workers')?.advice ?? '', /tasklane worker --queues alone:0/);
  assert.match(of('waiting')?.message ?? '', /^old:0 \(1, the oldest for 1h/);
  assert.match(of('paused')?.advice ?? '', /tasklane queues resume shut/);
  assert.match(of('dead tasks')?.advice ?? '', /tasklane dead list --queue fragile/);
});

test('doctor says who holds a lock, ends in time, and calls no key wrong for it', async (t) => {
  const { url, psql, start } = await ownDatabase(t);
  const server = await start({ env: { TASKLANE_DATABASE_SECONDS: '2', TASKLANE_LOG_LEVEL: 'silent' } });
  await server.request('POST', '/v1/queue/register', { queue: 'q', endpoint: CHAT });
  await psql.query(
    'begin; alter table tasklane.task add column note text; lock table tasklane.api_key in access exclusive mode',
  );
  const { rows } = await psql.query('select pg_backend_pid() as pid');
  const end = `select pg_terminate_backend(${rows[0].pid});`;
  let held = true;
  const waiting = Array.from({ length: 3 }, async () => {
    while (held) await server.request('POST', '/v1/queue/put', { queue: 'q', endpoint: CHAT, data: {} });
  });
  const began = performance.now();
  try {
    const first = await doctor(server, `--database-url ${url}`);
    assert.ok(performance.now() - began < 60_000);
    assert.equal(first.code, 1);
    assert.match(first.of('writes')?.message ?? '', /lock on tasklane\.\w+ held by pid/);
    assert.match(first.of('writes')?.advice ?? '', new RegExp(`${rows[0].pid}`));
    assert.equal(first.of('a task')?.state ?? 'problem', 'problem');
    assert.notEqual(first.of('key')?.state, 'problem');
    assert.doesNotMatch(first.of('key')?.advice ?? '', /TASKLANE_API_KEY/);
    assert.ok(first.of('blocked sessions')?.advice?.includes(end) ?? true);
    assert.ok(first.of('disk'));
  } finally {
    held = false;
    await psql.query('rollback');
    await Promise.all(waiting);
  }
  const { of } = await doctor(server, `--database-url ${url}`);
  for (const name of ['writes', 'key', 'a task', 'blocked sessions', 'disk']) assert.equal(of(name)?.state, 'ok', name);
  assert.equal(of('blocked sessions')?.message, 'none');
});
