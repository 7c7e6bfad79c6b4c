import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer as createTcpServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, type TestContext, test } from 'node:test';
import { createClient } from '../../../client/client.ts';
import { createExecutor, createWorker } from '../../../client/worker.ts';
import { startServer, until } from '../../support/server.ts';
import { cli } from '../cli/tasklane.ts';
import { json, listen } from '../executors/support.ts';
import { startProxy } from '../proxy.ts';

const CHAT = '/v1/chat/completions';
const server = await startServer();
const client = createClient({ baseUrl: server.url, apiKey: server.adminKey });
const folder = await mkdtemp(join(tmpdir(), 'tasklane-worker-'));
const tasklane = cli(folder, { TASKLANE_API_KEY: server.adminKey });
after(async () => {
  tasklane.killAll();
  await server.stop();
  await rm(folder, { recursive: true });
});

let queues = 0;
async function newQueue(): Promise<string> {
  const name = `q${++queues}`;
  await client.queues.register(name, CHAT);
  return name;
}

const put = (queue: string, count: number) =>
  client.puts(
    Array.from({ length: count }, (_, n) => ({ queue, endpoint: CHAT, level: 1, data: { messages: [], n } })),
  );

/** A model server that begins and never ends, until it is told how to answer. */
async function upstreamOf(t: TestContext, answers = false) {
  const begun: { left: Promise<unknown> }[] = [];
  const upstream = await listen((heard, res) => {
    if (heard.method === 'GET') return json(res, 200, { data: [] });
    begun.push({ left: once(res, 'close') });
    if (answers) return setTimeout(() => json(res, 200, { choices: [] }), 100);
  });
  t.after(() => upstream.close());
  return { url: upstream.url, begun };
}

async function endsWithin(ms: number, stopped: Promise<unknown>): Promise<void> {
  const began = performance.now();
  await stopped;
  const took = performance.now() - began;
  assert.ok(took < ms, `took ${Math.round(took)} ms`);
}

/** A server that takes connections and says nothing. */
async function silent(t: TestContext, port: number): Promise<void> {
  const sockets = new Set<Socket>();
  const listener = createTcpServer((socket) => {
    sockets.add(socket.on('error', () => undefined));
  }).listen(port, '127.0.0.1');
  await once(listener, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    listener.close();
  });
}

describe('a worker that is told to stop ends within its drain time', { concurrency: true }, () => {
  for (const how of ['is away', 'says nothing'])
    test(`when its model server hangs and its server ${how}`, async (t) => {
      const queue = await newQueue();
      const upstream = await upstreamOf(t);
      const proxy = await startProxy(server.url, () => 'pass');
      const worker = createWorker({
        baseUrl: proxy.url,
        apiKey: server.adminKey,
        queues: [`${queue}:1`],
        executor: createExecutor('openai', { upstreams: [{ url: upstream.url }], concurrency: 2 }),
        handleSignals: false,
        drainSeconds: 4,
        log: () => undefined,
      });
      await worker.start();
      const ids = await put(queue, 2);
      await until(async () => upstream.begun.length === 2);
      await proxy.stop();
      if (how === 'says nothing') await silent(t, Number(new URL(proxy.url).port));
      await endsWithin(6000, worker.stop());
      await Promise.all(upstream.begun.map(({ left }) => left));
      assert.equal((await client.get(ids[0] as string)).status, 'running', 'nobody could be told');
    });

  test('as a process, when its model server hangs and its server was killed', async (t) => {
    const own = await startServer();
    t.after(() => own.stop());
    const upstream = await upstreamOf(t);
    const ownClient = createClient({ baseUrl: own.url, apiKey: own.adminKey });
    const worker = tasklane.start(
      `worker --upstream ${upstream.url} --queues chat:0 --endpoint ${CHAT} --concurrency 2 --drain 3`,
      { env: { TASKLANE_URL: own.url, TASKLANE_API_KEY: own.adminKey } },
    );
    await worker.shows(/ready/);
    await ownClient.put({ queue: 'chat', endpoint: CHAT, data: { messages: [] } });
    await until(async () => upstream.begun.length === 1);
    await own.kill('SIGKILL');
    worker.kill('SIGTERM');
    await endsWithin(6000, worker.ended);
    assert.equal((await worker.ended).code, 0);
  });
});

test('a worker that stops says so', async () => {
  const queue = await newQueue();
  const worker = createWorker({
    baseUrl: server.url,
    apiKey: server.adminKey,
    queues: [`${queue}:0`],
    handlers: { '*': () => null },
    handleSignals: false,
    log: () => undefined,
  });
  await worker.start();
  await worker.stop();
  const { json: workers } = await server.request('GET', '/v1/workers');
  assert.equal(workers.data.find(({ id }: { id: string }) => id === worker.id)?.state, 'stopped');
});

test('a worker that was killed and is back under its name has its tasks back at once', async (t) => {
  const queue = await newQueue();
  const upstream = await upstreamOf(t, true);
  const start = () =>
    tasklane.start(`worker --upstream ${upstream.url} --queues ${queue}:1 --concurrency 4 --name gpu-${queue}`, {
      env: { TASKLANE_URL: server.url },
    });
  const first = start();
  await first.shows(/ready/);
  const ids = await put(queue, 60);
  await until(async () => upstream.begun.length > 10);
  first.kill('SIGKILL');
  await first.ended;
  const held = (await Promise.all(ids.map((id) => client.get(id)))).filter(({ status }) => status === 'running');
  assert.ok(held.length > 0, 'it was killed in the middle');
  const killedAt = performance.now();
  const second = start();
  const ended = await Promise.all(ids.map((id) => client.wait(id)));
  assert.ok(performance.now() - killedAt < 20_000, 'long before the lease of 30 seconds');
  assert.deepEqual(new Set(ended.map(({ status }) => status)), new Set(['succeeded']));
  const attempts = (await Promise.all(held.map(({ task_id }) => client.get(task_id)))).flatMap((task) => task.attempts);
  assert.ok(attempts.some((attempt) => attempt?.reason === 'worker restarted'));
  second.kill('SIGTERM');
  assert.equal((await second.ended).code, 0);
  const { json: workers } = await server.request('GET', '/v1/workers');
  const states = workers.data.filter(({ name }: { name: string }) => name === `gpu-${queue}`);
  assert.deepEqual(
    states.map(({ state }: { state: string }) => state),
    ['stopped', 'stopped'],
  );
});
