import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { LLMock } from '@copilotkit/aimock';
import OpenAI from 'openai';
import { chat, createClient } from '../../client/client.ts';
import { createExecutor, createWorker, type WorkerOptions } from '../../client/worker.ts';
import { startServer, until } from '../support/server.ts';

// Workers between a real server and model servers: a mock from npm that speaks OpenAI's API, with faults by chance.

const CHAT = '/v1/chat/completions';
const server = await startServer();
const client = createClient({ baseUrl: server.url, apiKey: server.adminKey });
const mock = new LLMock({ port: 0, logLevel: 'silent' });
mock.onMessage(/.*/, ({ messages }) => ({ content: `echo: ${messages.at(-1)?.content}` }));

before(() => mock.start());
after(async () => {
  await mock.stop();
  await server.stop();
});

async function serve(t: TestContext, queue: string, options: Partial<WorkerOptions> & Pick<WorkerOptions, 'executor'>) {
  // Among as many tasks some fail three times by chance.
  await client.queues.register(queue, CHAT, { max_attempts: 20, retry: { initial_seconds: 0.1 } });
  const worker = createWorker({
    baseUrl: server.url,
    apiKey: server.adminKey,
    queues: [`${queue}:0`, `${queue}:1`],
    handleSignals: false,
    ...options,
  });
  await worker.start();
  t.after(() => worker.stop());
  return worker;
}

const ask = (queue: string, content: string, level = 0) =>
  chat({ queue, level, model: 'm', messages: [{ role: 'user', content }] });

test('every task is answered once and rightly by a model server that fails, refuses and breaks off by chance', async (t) => {
  mock.setChaos({ dropRate: 0.07, malformedRate: 0.07, disconnectRate: 0.07, rateLimitRate: 0.07 });
  t.after(() => mock.setChaos({}));
  await serve(t, 'chance', { executor: createExecutor('openai', { upstreams: [{ url: mock.url }] }) });
  const ids = await client.puts(Array.from({ length: 120 }, (_, n) => ask('chance', `task ${n}`, n % 2)));
  await until(async () =>
    (await client.stats()).every(
      ({ queue, waiting, deferred, running }) => queue !== 'chance' || waiting + deferred + running === 0,
    ),
  );
  const answers = new Map<string, unknown>();
  for await (const { task_id, status, result } of client.list({ queue: 'chance', limit: 1000 })) {
    const { choices } = (result?.body ?? {}) as { choices?: { message: { content: string } }[] };
    answers.set(task_id, [status, choices?.[0]?.message.content]);
  }
  for (const [n, id] of ids.entries()) assert.deepEqual(answers.get(id), ['succeeded', `echo: task ${n}`]);
});

test("a stream of OpenAI's package through queue and worker has the chunks that the model server sent", async (t) => {
  await serve(t, 'streamed', { executor: createExecutor('openai', { upstreams: [{ url: mock.url }] }) });
  const chunksOf = async (baseURL: string) => {
    const openai = new OpenAI({ baseURL, apiKey: server.adminKey, maxRetries: 0 });
    const chunks = [];
    const messages = [{ role: 'user' as const, content: 'One two three four five six seven' }];
    for await (const chunk of await openai.chat.completions.create({ model: 'streamed', messages, stream: true })) {
      chunks.push({ ...chunk, id: '', created: 0 });
    }
    return chunks;
  };
  const direct = await chunksOf(`${mock.url}/v1`);
  assert.ok(direct.length > 2);
  assert.deepEqual(await chunksOf(`${server.url}/v1`), direct);
});

describe('beside a running batch', () => {
  /** Answers one request when it is told, and notes the order in which they came. */
  async function slowModel(t: TestContext) {
    const came: { content: string; answer: () => void }[] = [];
    const model = createServer(async (req, res) => {
      const text = (await req.toArray()).join('');
      if (req.method === 'GET') return void res.end('{"data":[]}');
      const { content } = JSON.parse(text).messages.at(-1);
      const answer = { id: 'x', object: 'chat.completion', choices: [{ index: 0, message: { content } }] };
      came.push({ content, answer: () => res.end(JSON.stringify(answer)) });
    }).listen(0, '127.0.0.1');
    t.after(() => {
      model.closeAllConnections();
      model.close();
    });
    await until(async () => model.listening);
    return { came, url: `http://127.0.0.1:${(model.address() as AddressInfo).port}` };
  }

  const batch = (queue: string, lines = 30) =>
    client.batches.submit(
      Array.from({ length: lines }, (_, n) => ({
        custom_id: `${n}`,
        method: 'POST' as const,
        url: CHAT,
        body: { model: 'm', messages: [{ role: 'user', content: `line ${n}` }] },
      })),
      { queue },
    );

  test('a worker that has just begun finds the places of a model server that answers fast', async (t) => {
    let inside = 0;
    let most = 0;
    const model = createServer(async (req, res) => {
      await req.toArray();
      most = Math.max(most, ++inside);
      await sleep(20);
      inside--;
      res.end(JSON.stringify({ id: 'x', object: 'chat.completion', choices: [] }));
    }).listen(0, '127.0.0.1');
    t.after(() => {
      model.closeAllConnections();
      model.close();
    });
    await until(async () => model.listening);
    const url = `http://127.0.0.1:${(model.address() as AddressInfo).port}`;
    await serve(t, 'fast', { executor: createExecutor('openai', { upstreams: [{ url }] }), drainSeconds: 0 });
    const { id } = await batch('fast', 5000);
    await until(async () => most >= 32);
    await client.batches.cancel(id);
  });

  test('a live request begins at once, in the place that is kept for it', async (t) => {
    const { came, url } = await slowModel(t);
    await serve(t, 'kept', {
      executor: createExecutor('openai', { upstreams: [{ url }], concurrency: 3 }),
      drainSeconds: 0,
    });
    const { id } = await batch('kept');
    await until(async () => came.length === 2);
    const live = client.putAndWait(ask('kept', 'live'));
    await until(async () => came.length === 3);
    assert.equal(came[2]?.content, 'live');
    came[2]?.answer();
    assert.equal((await live).status_code, 200);
    await client.batches.cancel(id);
  });

  test('a live request waits for one answer where there is one place, and for no other', async (t) => {
    const { came, url } = await slowModel(t);
    await serve(t, 'single', {
      executor: createExecutor('openai', { upstreams: [{ url }], concurrency: 1 }),
      drainSeconds: 0,
    });
    const { id } = await batch('single');
    await until(async () => came.length === 1);
    for (let turn = 1; turn <= 5; turn++) {
      const live = client.putAndWait(ask('single', `live ${turn}`));
      await until(async () => (await client.queues.stats('single:0')).waiting === 1);
      came.at(-1)?.answer();
      await until(async () => came.length === 2 * turn);
      assert.equal(came.at(-1)?.content, `live ${turn}`);
      came.at(-1)?.answer();
      assert.equal((await live).status_code, 200);
      await until(async () => came.length === 2 * turn + 1);
    }
    await client.batches.cancel(id);
  });
});
