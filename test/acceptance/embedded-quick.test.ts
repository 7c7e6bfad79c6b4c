import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { chmod, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { killPostmaster } from '../../scripts/chaos/postmaster.ts';
import { type Json, type Server, startServer } from '../support/server.ts';

test('a first start on an empty folder makes a database and an admin key, with which a task comes back answered', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'tasklane-first-'));
  // As root, Postgres runs as a user who must be able to enter the folder.
  await chmod(dataDir, 0o711);
  const endLeftover = () => {
    killPostmaster(dataDir);
    rmSync(dataDir, { recursive: true, force: true });
  };
  process.once('exit', endLeftover);
  // An empty value counts as unset.
  const unset = { TASKLANE_ADMIN_KEY: '', TASKLANE_CALLBACK_ALLOW: '', TASKLANE_LOG_LEVEL: '' };
  const start = () => startServer({ url: '', env: { ...unset, TASKLANE_DATA_DIR: dataDir } });
  let server: Server | undefined;
  try {
    server = await start();
    const { url } = server;
    const keyFile = join(dataDir, 'admin.key');
    assert.ok(server.stdout.includes(`admin key: ${keyFile}\n`), server.stdout);
    assert.equal((await stat(keyFile)).mode & 0o777, 0o600);
    const key = readFileSync(keyFile, 'utf8').trim();
    const call = async (path: string, body?: object, authorization = `Bearer ${key}`) => {
      const response = await fetch(url + path, {
        method: body ? 'POST' : 'GET',
        headers: { Authorization: authorization, 'Content-Type': 'application/json' },
        ...(body && { body: JSON.stringify(body) }),
      });
      return { status: response.status, json: (await response.json()) as Json };
    };
    assert.deepEqual(await call('/health'), { status: 200, json: { status: 'UP' } });
    assert.equal((await call('/v1/queues', undefined, 'Bearer sk-nobody')).status, 401);

    const endpoint = '/v1/chat/completions';
    assert.deepEqual((await call('/v1/queue/register', { queue: 'hello', endpoint })).json, 'hello');
    const put = await call('/v1/queue/put', { queue: 'hello', endpoint, data: { messages: [] } });
    assert.equal(put.json.code, 200);
    const taken = await call('/v1/queue/take', { queues: ['hello:0'], size: 1 });
    const [task] = taken.json['hello:0'];
    assert.equal(task.task_id, put.json.data);
    assert.deepEqual(task.data, { messages: [] });
    await call(`/v1/queue/${task.task_id}/complete`, { status_code: 200, body: { answer: 'hi' } });
    const { json } = await call(`/v1/queue/${task.task_id}`);
    assert.equal(json.status, 'succeeded');
    assert.deepEqual(json.result.body, { answer: 'hi' });

    assert.deepEqual(await server.kill('SIGTERM'), { code: 0, signal: null });
    server = await start();
    assert.equal(readFileSync(keyFile, 'utf8').trim(), key);
    const again = await server.request('GET', `/v1/queue/${task.task_id}`, undefined, { key });
    assert.equal(again.json.status, 'succeeded');
  } finally {
    await server?.kill('SIGTERM');
    process.off('exit', endLeftover);
    endLeftover();
    await rm(dataDir, { recursive: true, force: true });
  }
});
