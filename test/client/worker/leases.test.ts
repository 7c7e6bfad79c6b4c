import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { after, describe, type TestContext, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { createClient } from '../../../client/client.ts';
import { createExecutor, createWorker, type WorkerOptions } from '../../../client/worker.ts';
import { ownDatabase, startServer, until } from '../../support/server.ts';
import { listen } from '../executors/support.ts';
import { startProxy } from '../proxy.ts';

const CHAT = '/v1/chat/completions';
const HEARTBEAT = 'POST /v1/queue/heartbeat';
/** What a worker took to hear of a cancel that its heartbeat did not wait for: up to five seconds. */
const AT_ONCE_MS = 2000;
const one = await startServer();
const two = await startServer({ url: one.databaseUrl });
const client = createClient({ baseUrl: one.url, apiKey: one.adminKey });
const psql = new pg.Client({ connectionString: one.databaseUrl });
await psql.connect();
after(async () => {
  await psql.end();
  await two.stop();
  await one.stop();
});

let queues = 0;
async function newQueue(settings = {}): Promise<string> {
  const name = `q${++queues}`;
  await client.queues.register(name, CHAT, settings);
  return name;
}

async function startWorker(t: TestContext, queue: string, options: Partial<WorkerOptions>) {
  const worker = createWorker({
    baseUrl: one.url,
    apiKey: one.adminKey,
    queues: [`${queue}:0`, `${queue}:1`],
    handleSignals: false,
    drainSeconds: 0,
    log: () => undefined,
    ...options,
  });
  t.after(() => worker.stop());
  await worker.start();
  return worker;
}

/** A model server that begins what it is asked for and never ends it, with a chunk first where a stream is asked for; and when its callers hang up. */
async function hanging(t: TestContext) {
  const left: Promise<unknown>[] = [];
  const upstream = await listen((heard, res: ServerResponse) => {
    if (heard.method === 'GET') {
      res.end('{"data":[]}');
      return;
    }
    if (heard.body.includes('"stream":true')) {
      res.writeHead(200, { 'Content-Type': 'text/event-stream' });
      res.write('data: {"choices":[{"delta":{"content":"a"}}]}\n\n');
    }
    left.push(once(res, 'close'));
  });
  t.after(() => upstream.close());
  return {
    url: upstream.url,
    begun: (count: number) => until(async () => left.length >= count),
    get left() {
      return Promise.all(left);
    },
  };
}

const openai = (url: string) => createExecutor('openai', { upstreams: [{ url }], concurrency: 8 });

async function within(ms: number, work: Promise<unknown>): Promise<void> {
  const late = pause(ms, 'late');
  assert.notEqual(await Promise.race([work, late]), 'late', `not within ${ms} ms`);
}

describe('the call of a model server ends', { concurrency: true }, () => {
  test('at once when the client at another server hangs up, blocking or streaming', async (t) => {
    const queue = await newQueue();
    const upstream = await hanging(t);
    await startWorker(t, queue, { executor: openai(upstream.url) });
    const gone = new AbortController();
    const ask = (stream: boolean) =>
      fetch(`${two.url}${CHAT}`, {
        method: 'POST',
        headers: { Authorization: `Bearer ${two.adminKey}`, 'Content-Type': 'application/json' },
        body: JSON.stringify({ model: queue, stream, messages: [{ role: 'user', content: 'hello' }] }),
        signal: gone.signal,
      }).then((reply) => reply.text());
    const asked = Promise.allSettled([ask(false), ask(false), ask(true)]);
    await upstream.begun(3);
    gone.abort();
    await within(AT_ONCE_MS, upstream.left);
    await asked;
  });

  test('at once when a batch is cancelled', async (t) => {
    const queue = await newQueue();
    const upstream = await hanging(t);
    await startWorker(t, queue, { executor: openai(upstream.url) });
    const lines = [1, 2, 3, 4].map((n) => ({
      custom_id: `r${n}`,
      method: 'POST',
      url: CHAT,
      body: { model: queue, messages: [{ role: 'user', content: 'hello' }] },
    }));
    const form = new FormData();
    form.append('purpose', 'batch');
    form.append('file', new Blob([lines.map((line) => JSON.stringify(line)).join('\n')]), 'in.jsonl');
    const call = async (path: string, body: FormData | object | null) => {
      const isForm = body instanceof FormData;
      const reply = await fetch(`${two.url}${path}`, {
        method: 'POST',
        headers: {
          Authorization: `Bearer ${two.adminKey}`,
          ...(isForm ? {} : { 'Content-Type': 'application/json' }),
        },
        body: isForm ? body : JSON.stringify(body),
      });
      return (await reply.json()) as { id: string };
    };
    const file = await call('/v1/files', form);
    const batch = await call('/v1/batches', { input_file_id: file.id, endpoint: CHAT, completion_window: '24h' });
    await upstream.begun(4);
    await call(`/v1/batches/${batch.id}/cancel`, {});
    await within(2 * AT_ONCE_MS, upstream.left);
  });

  test('soon where the server does not wait, and is not asked over and over', async (t) => {
    const queue = await newQueue();
    const upstream = await hanging(t);
    // As an older server: it answers at once.
    const older = await listen(async ({ method, url, headers, body }, res) => {
      const { wait: _, ...known } = body === '' ? {} : JSON.parse(body);
      const passed = url.endsWith('/heartbeat') ? JSON.stringify(known) : body;
      const gone = new AbortController();
      res.on('close', () => gone.abort());
      const reply = await fetch(one.url + url, {
        method,
        headers: { Authorization: headers.authorization as string, 'Content-Type': 'application/json' },
        ...(passed !== '' && { body: passed }),
        signal: gone.signal,
      }).catch(() => undefined);
      res.writeHead(reply?.status ?? 502, { 'Content-Type': 'application/json' }).end(await reply?.text());
    });
    t.after(() => older.close());
    const beats = () =>
      older.requests.filter(({ url, body }) => url.endsWith('/heartbeat') && body.includes('"wait"')).length;
    await startWorker(t, queue, { baseUrl: older.url, executor: openai(upstream.url), leaseSeconds: 3 });
    const [gone, kept] = await client.puts([1, 2].map(() => ({ queue, endpoint: CHAT, data: { messages: [] } })));
    await upstream.begun(2);
    await until(async () => beats() > 0);
    const began = performance.now();
    await client.cancel(gone as string);
    const before = beats();
    await until(async () => beats() >= before + 3);
    assert.ok(performance.now() - began > 1000, 'it has a second between two heartbeats');
    assert.equal((await client.get(kept as string)).status, 'running');
  });
});

describe('a worker', { concurrency: true }, () => {
  test('has one heartbeat for many short tasks', async (t) => {
    const queue = await newQueue();
    const proxy = await startProxy(one.url, () => 'pass');
    t.after(() => proxy.stop());
    await startWorker(t, queue, { baseUrl: proxy.url, concurrency: 16, handlers: { '*': () => ({}) } });
    await client.puts(Array.from({ length: 600 }, () => ({ queue, endpoint: CHAT, data: {} })));
    await until(async () => (await client.queues.stats(`${queue}:0`)).total_completed_cnt === 600);
    const beats = proxy.requests.filter((request) => request === HEARTBEAT).length;
    assert.ok(beats < 30, `${beats} heartbeats for 600 tasks`);
  });

  test('takes for 30 seconds, for less where its queue says so, and for as long as it is told', async (t) => {
    const leaseOf = async (settings: object, options: Partial<WorkerOptions>) => {
      const queue = await newQueue(settings);
      await startWorker(t, queue, { handlers: { '*': (_task, { signal }) => once(signal, 'abort') }, ...options });
      await client.put({ queue, endpoint: CHAT, data: {} });
      return until(async () => {
        const { rows } = await psql.query(
          'select r.lease_seconds from tasklane.running r join tasklane.queue q using (queue_id) where q.queue = $1',
          [queue],
        );
        return rows[0]?.lease_seconds as number | undefined;
      });
    };
    assert.equal(await leaseOf({}, {}), 30);
    assert.equal(await leaseOf({ lease_seconds: 4 }, {}), 4);
    assert.equal(await leaseOf({ lease_seconds: 4 }, { leaseSeconds: 20 }), 20);
  });

  test('keeps a task for longer than its lease', async (t) => {
    const queue = await newQueue({ lease_seconds: 2 });
    await startWorker(t, queue, { handlers: { '*': () => pause(4500, { slept: true }) } });
    const id = await client.put({ queue, endpoint: CHAT, data: {} });
    const { result, attempt } = await client.wait(id);
    assert.deepEqual([result?.body, attempt], [{ slept: true }, 1]);
  });

  test('keeps its tasks over a break that is longer than its leases', async (t) => {
    const database = await ownDatabase(t);
    const first = await database.start();
    const own = createClient({ baseUrl: first.url, apiKey: first.adminKey });
    await own.queues.register('q', CHAT);
    const begun: { attempt: number; answer: (body: unknown) => void }[] = [];
    await startWorker(t, 'q', {
      baseUrl: first.url,
      leaseSeconds: 3,
      handlers: { '*': ({ attempt }) => new Promise((answer) => begun.push({ attempt, answer })) },
    });
    const id = await own.put({ queue: 'q', endpoint: CHAT, data: {} });
    await until(async () => begun.length === 1);
    await first.kill('SIGKILL');
    const isOver = async (over: boolean) => {
      const { rows } = await database.psql.query('select lease_until < now() as over from tasklane.running');
      return rows.length === 0 || rows[0].over === over;
    };
    await until(() => isOver(true));
    await database.start({ env: { PORT: new URL(first.url).port } });
    await until(() => isOver(false));
    begun[0]?.answer({ done: true });
    const { result, attempt } = await own.wait(id);
    assert.deepEqual([result?.body, attempt, begun.length], [{ done: true }, 1, 1]);
  });
});
