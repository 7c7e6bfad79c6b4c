import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, describe, type TestContext, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { createClient, type Put, type Task } from '../../client/client.ts';
import {
  createWorker,
  type HandlerContext,
  type TaskAborted,
  type TaskExecutor,
  type TaskWrapper,
  type WorkerOptions,
} from '../../client/worker.ts';
import { type Json, ownDatabase, startServer, until } from '../support/server.ts';
import { startProxy } from './proxy.ts';

const CHAT = '/v1/chat/completions';
const server = await startServer({ env: { TASKLANE_MAX_ANSWER_BYTES: '200000' } });
const client = createClient({ baseUrl: server.url, apiKey: server.adminKey });
after(() => server.stop());

let queues = 0;
async function newQueue(settings = {}): Promise<string> {
  const name = `q${++queues}`;
  await client.queues.register(name, CHAT, settings);
  return name;
}

const put = (queue: string, more: Partial<Put> = {}): Put => ({ queue, endpoint: CHAT, data: {}, ...more });

/** A started worker that is stopped when the test is over, and what it logged. */
async function startWorker(t: TestContext, queue: string, options: Partial<WorkerOptions>) {
  const logged: string[] = [];
  const worker = createWorker({
    baseUrl: server.url,
    apiKey: server.adminKey,
    queues: [`${queue}:0`, `${queue}:1`],
    handleSignals: false,
    drainSeconds: 0,
    log: (line) => logged.push(line),
    ...options,
  });
  t.after(() => worker.stop());
  await worker.start();
  return { worker, logged, stop: worker.stop };
}

/** A handler that waits until it is let go, and the tasks that are in it. */
function gate() {
  const open: { task: Task; let: (answer?: unknown) => void; context: HandlerContext }[] = [];
  const handler = (task: Task, context: HandlerContext) =>
    new Promise<unknown>((resolve) => open.push({ task, let: resolve, context }));
  return { open, handler, count: (n: number) => until(async () => open.length >= n) };
}

describe('a handler', { concurrency: true }, () => {
  test('answers with what it returns, or with a status of its own', async (t) => {
    const queue = await newQueue();
    await startWorker(t, queue, {
      concurrency: 2,
      handlers: {
        '*': async (task: Task<{ n: number }>, context) =>
          task.data.n === 0 ? { double: task.data.n * 2 } : context.answer(404, { error: 'none' }, 'req-1'),
      },
    });
    const good = await client.putAndWait(put(queue, { data: { n: 0 } }));
    assert.deepEqual([good.status_code, good.body], [200, { double: 0 }]);
    const bad = await client.putAndWait(put(queue, { data: { n: 1 } }));
    assert.deepEqual([bad.status_code, bad.body], [404, { error: 'none' }]);
    assert.equal((await client.get(bad.task_id)).result?.request_id, 'req-1');
  });

  test('that throws has its task tried again, and dead in the end, with the reason on record', async (t) => {
    const queue = await newQueue({ max_attempts: 2, retry: { initial_seconds: 0 } });
    const { worker } = await startWorker(t, queue, {
      handlers: {
        '*': () => {
          throw new Error('out of cheese');
        },
      },
    });
    await assert.rejects(client.putAndWait(put(queue)), { name: 'TaskEndedError', status: 'dead' });
    const [dead] = (await client.dead.list({ queue }).page()).data;
    const { attempts } = await client.get(dead?.task_id as string);
    assert.deepEqual(
      attempts?.map(({ reason, worker: by }) => [reason, by]),
      [
        ['out of cheese', worker.id],
        ['out of cheese', worker.id],
      ],
    );
  });

  test('puts a task off, which counts as an attempt unless nothing was done for it', async (t) => {
    const queue = await newQueue({ max_attempts: 1 });
    let calls = 0;
    await startWorker(t, queue, {
      handlers: {
        '*': (task: Task, context) =>
          ++calls < 3 ? context.retryLater({ delay_seconds: 0.01, begun: false }) : { attempt: task.attempt },
      },
    });
    assert.deepEqual((await client.putAndWait(put(queue))).body, { attempt: 1 });
    const once = await newQueue({ max_attempts: 1 });
    await startWorker(t, once, { handlers: { '*': (_task, context) => context.retryLater({ reason: 'busy' }) } });
    await assert.rejects(client.putAndWait(put(once)), { status: 'dead' });
  });

  test('that generates streams what it yields, in order, and answers with what it returns', async (t) => {
    const queue = await newQueue();
    const handlers = {
      async *[CHAT](task: Task) {
        for (let n = 0; n < 50; n++) yield { n };
        return task.response_mode === 'streaming' ? { end: true } : undefined;
      },
    };
    await startWorker(t, queue, { handlers, concurrency: 4 });
    const streams = await Promise.all(
      Array.from({ length: 4 }, async () => {
        const events = [];
        for await (const event of client.stream(put(queue)))
          events.push(event.type === 'progress' ? event.data : event.result.body);
        return events;
      }),
    );
    const all = Array.from({ length: 50 }, (_, n) => ({ n }));
    for (const events of streams) assert.deepEqual(events, [...all, { end: true }]);
    // Nobody reads the events of other tasks: they are the answer.
    assert.deepEqual((await client.putAndWait(put(queue))).body, all);
  });

  test('streams by POST where no WebSocket can be opened', async (t) => {
    const queue = await newQueue();
    // It knows nothing of upgrades.
    const proxy = await startProxy(server.url, () => 'pass');
    t.after(proxy.stop);
    await startWorker(t, queue, {
      baseUrl: proxy.url,
      handlers: {
        async *'*'() {
          for (let n = 0; n < 20; n++) yield n;
        },
      },
    });
    const events = [];
    for await (const event of client.stream(put(queue))) if (event.type === 'progress') events.push(event.data);
    assert.deepEqual(
      events,
      Array.from({ length: 20 }, (_, n) => n),
    );
    assert.ok(proxy.requests.includes('POST /v1/queue/events'));
  });

  test('whose answer the server will not take answers with why', async (t) => {
    const queue = await newQueue();
    const { logged } = await startWorker(t, queue, {
      concurrency: 3,
      handlers: { '*': (task: Task<{ size: number }>) => ({ text: 'x'.repeat(task.data.size) }) },
    });
    const answers = await Promise.all(
      [10, 300_000, 20].map((size) =>
        client.putAndWait<{ error?: { message: string } }>(put(queue, { data: { size } })),
      ),
    );
    assert.deepEqual(
      answers.map(({ status_code }) => status_code),
      [200, 500, 200],
    );
    assert.match(answers[1]?.body.error?.message as string, /can't be delivered: .*200000/);
    assert.match(logged.join('\n'), /can't take the answer/);
    const circle: { self?: unknown } = {};
    circle.self = circle;
    const none = await newQueue();
    await startWorker(t, none, {
      handlers: { '*': (task: Task<{ n: number }>, context) => (task.data.n ? circle : context.answer(700, {})) },
    });
    for (const [n, why] of [/status_code: 700/, /circular/i].entries()) {
      const { status_code, body } = await client.putAndWait<{ error: { message: string } }>(put(none, { data: { n } }));
      assert.equal(status_code, 500);
      assert.match(body.error.message, why);
    }
  });
});

describe("a task's signal", { concurrency: true }, () => {
  const whyOf = async (context: HandlerContext): Promise<string> => {
    if (!context.signal.aborted) await once(context.signal, 'abort');
    return (context.signal.reason as TaskAborted).why;
  };

  test('aborts when the task is cancelled, and its place is free again', async (t) => {
    const queue = await newQueue();
    const { open, handler, count } = gate();
    const watched = (task: Task, context: HandlerContext) =>
      Promise.race([handler(task, context), once(context.signal, 'abort')]);
    await startWorker(t, queue, { handlers: { '*': watched }, leaseSeconds: 3 });
    const id = await client.put(put(queue));
    await count(1);
    await client.cancel(id);
    assert.equal(await whyOf((open[0] as (typeof open)[0]).context), 'cancelled');
    const next = client.putAndWait(put(queue));
    await count(2);
    open[1]?.let({ fine: true });
    assert.deepEqual((await next).body, { fine: true });
  });

  test('aborts when its deadline passes', async (t) => {
    const queue = await newQueue();
    const { open, handler, count } = gate();
    await startWorker(t, queue, { handlers: { '*': handler } });
    const id = await client.put(put(queue, { timeout: 1 }));
    await count(1);
    assert.equal(await whyOf((open[0] as (typeof open)[0]).context), 'deadline');
    assert.equal((await client.wait(id)).status, 'expired');
  });

  test('aborts when somebody else has the task', async (t) => {
    const queue = await newQueue();
    const { open, handler, count } = gate();
    await startWorker(t, queue, { handlers: { '*': handler }, leaseSeconds: 3 });
    const id = await client.put(put(queue));
    await count(1);
    await server.request('POST', `/v1/queue/${id}/release`, { delay_seconds: 600 });
    assert.equal(await whyOf((open[0] as (typeof open)[0]).context), 'lost');
    assert.equal((await client.get(id)).status, 'deferred');
  });
});

describe('live tasks', { concurrency: true }, () => {
  test('begin although bulk work fills all but the reserve, and before what waits', async (t) => {
    const queue = await newQueue();
    const { open, handler, count } = gate();
    await startWorker(t, queue, { handlers: { '*': handler }, concurrency: 4, reserve: 1, prefetch: 2 });
    await client.puts(Array.from({ length: 10 }, () => put(queue, { level: 1 })));
    // Two more are at hand, and none of them may have the last place.
    await until(async () => (await client.queues.stats(`${queue}:1`)).running === 5);
    await count(3);
    assert.equal(open.length, 3);
    const live = client.putAndWait(put(queue));
    await count(4);
    assert.equal(open[3]?.task.level, 0);
    const second = client.putAndWait(put(queue));
    await until(async () => (await client.queues.stats(`${queue}:0`)).running === 1);
    open[0]?.let();
    await count(5);
    assert.equal(open[4]?.task.level, 0);
    open[3]?.let({ n: 1 });
    open[4]?.let({ n: 2 });
    assert.deepEqual([(await live).body, (await second).body], [{ n: 1 }, { n: 2 }]);
  });

  test('have the only place when it is free, and bulk work has it otherwise', async (t) => {
    const queue = await newQueue();
    const { open, handler, count } = gate();
    await startWorker(t, queue, { handlers: { '*': handler } });
    await client.put(put(queue, { level: 1 }));
    await count(1);
    const live = client.putAndWait(put(queue));
    await client.put(put(queue, { level: 1 }));
    open[0]?.let();
    await count(2);
    assert.equal(open[1]?.task.level, 0);
    open[1]?.let();
    assert.equal((await live).status_code, 200);
    await count(3);
    open[2]?.let();
  });
});

describe('a task that is given back', { concurrency: true }, () => {
  test('with what the server refuses goes back without that', async (t) => {
    const queue = await newQueue();
    const { logged } = await startWorker(t, queue, {
      handlers: {
        '*': (task: Task, { retryLater }) => (task.attempt === 1 ? retryLater({ delay_seconds: -1 }) : 'done'),
      },
    });
    const id = await client.put(put(queue, { retry: { initial_seconds: 0 } }));
    assert.equal((await client.wait(id)).result?.body, 'done');
    assert.match(logged.join('\n'), /goes back without what was refused: delay_seconds/);
  });

  test('has a reason that can be stored, whatever it says', async (t) => {
    const queue = await newQueue({ max_attempts: 1 });
    await startWorker(t, queue, {
      handlers: {
        '*': () => {
          throw new Error(`half a pair \ud83d and a NUL \0${'x'.repeat(1000)}`);
        },
      },
    });
    const { attempts } = await client.wait(await client.put(put(queue)));
    assert.match(attempts?.[0]?.reason ?? '', /^half a pair \ufffd and a NUL \ufffdx+$/);
  });

  test('is one for which no room comes, while another worker may have some', async (t) => {
    const queue = await newQueue();
    let isShut = false;
    const held: TaskWrapper[] = [];
    await startWorker(t, queue, {
      executor: { submit: (task) => void held.push(task), remainingCapacity: () => (isShut ? 0 : 1) },
    });
    await client.put(put(queue));
    await until(async () => held.length === 1);
    // A long poll is open by now: it brings the next task, for which there is no room.
    isShut = true;
    const id = await client.put(put(queue));
    await startWorker(t, queue, { handlers: { '*': () => 'done' } });
    const { result, attempt } = await client.wait(id);
    assert.deepEqual([result?.body, attempt], ['done', 1]);
    for (const task of held) task.markComplete({ status_code: 200, body: null });
  });
});

test('an executor gets no more tasks than it has capacity for, one at a time where it does not say', async (t) => {
  const queue = await newQueue();
  const begun: TaskWrapper[] = [];
  let capacity = 0;
  const executor: TaskExecutor = { submit: (task) => void begun.push(task), remainingCapacity: () => capacity };
  await startWorker(t, queue, { executor });
  await client.puts(Array.from({ length: 4 }, () => put(queue, { level: 1 })));
  const full = await newQueue();
  const single: TaskWrapper[] = [];
  await startWorker(t, full, { executor: { submit: (task) => void single.push(task) } });
  await client.puts([put(full), put(full)]);
  await until(async () => single.length === 1);
  assert.equal((await client.queues.stats(`${full}:0`)).waiting, 1);
  assert.equal(single[0]?.getPayload(), single[0]?.task.data);
  single[0]?.markComplete({ status_code: 200, body: null });
  await until(async () => single.length === 2);
  single[1]?.markRetryLater({ delay_seconds: 600 });
  // All the while there was no room in the other one.
  assert.deepEqual([begun.length, (await client.queues.stats(`${queue}:1`)).waiting], [0, 4]);
  capacity = 1;
  await until(async () => begun.length > 0);
  capacity = 0;
  for (const task of begun) task.markComplete({ status_code: 200, body: null });
});

test('an executor is told when work takes all the room but that which is kept for live tasks', async (t) => {
  const queue = await newQueue();
  const begun: TaskWrapper[] = [];
  const told: [queue: string, begun: number][] = [];
  const executor: TaskExecutor = {
    submit: (task) => void begun.push(task),
    remainingCapacity: () => 3 - begun.length,
    filled: (name) => void told.push([name, begun.length]),
  };
  await startWorker(t, queue, { executor });
  await client.put(put(queue, { level: 1 }));
  await until(async () => begun.length === 1);
  assert.deepEqual(told, []);
  await client.puts([put(queue, { level: 1 }), put(queue, { level: 1 })]);
  await until(async () => told.length > 0);
  assert.deepEqual(told[0], [queue, 2]);
  for (const task of begun) task.markComplete({ status_code: 200, body: null });
});

describe('a worker that stops', { concurrency: true }, () => {
  test('ends what has begun and gives back the rest, and no attempt counts', async (t) => {
    const queue = await newQueue({ max_attempts: 1 });
    const { open, handler, count } = gate();
    const { stop } = await startWorker(t, queue, { handlers: { '*': handler }, prefetch: 3, drainSeconds: 30 });
    const ids = await client.puts(Array.from({ length: 5 }, () => put(queue, { level: 1 })));
    await until(async () => (await client.queues.stats(`${queue}:1`)).running === 4);
    await count(1);
    const stopped = stop();
    await until(async () => (await client.queues.stats(`${queue}:1`)).waiting === 4);
    open[0]?.let({ done: true });
    await stopped;
    const tasks = await Promise.all(ids.map((id) => client.get(id)));
    assert.deepEqual(tasks.map(({ status }) => status).sort(), [
      'succeeded',
      'waiting',
      'waiting',
      'waiting',
      'waiting',
    ]);
    assert.ok(tasks.every(({ attempts, status }) => status === 'succeeded' || attempts?.length === 0));
  });

  test('gives back what does not end in time, and tells whoever works on it', async (t) => {
    const queue = await newQueue({ max_attempts: 1 });
    const { open, handler, count } = gate();
    const { stop } = await startWorker(t, queue, { handlers: { '*': handler }, drainSeconds: 0.1 });
    const id = await client.put(put(queue));
    await count(1);
    await stop();
    assert.equal((open[0] as (typeof open)[0]).context.signal.reason.why, 'stopping');
    const { status, attempts } = await client.get(id);
    assert.deepEqual([status, attempts], ['waiting', []]);
  });

  test('takes nothing while it is told to drain, and goes on when it is resumed', async (t) => {
    const queue = await newQueue();
    const { worker, logged } = await startWorker(t, queue, { handlers: { '*': () => 'done' } });
    assert.equal((await client.putAndWait(put(queue))).body, 'done');
    await client.workers.drain(worker.id);
    await until(async () => logged.some((line) => line.includes('asked to drain')));
    const waiting = client.putAndWait(put(queue));
    await until(async () => (await client.queues.stats(`${queue}:0`)).waiting === 1);
    await client.workers.resume(worker.id);
    assert.equal((await waiting).body, 'done');
  });
});

describe('a worker that starts', { concurrency: true }, () => {
  const options = { baseUrl: server.url, apiKey: server.adminKey, handleSignals: false };

  test('says what is wrong with its options, its queues, its handlers or its key', async () => {
    const handlers = { '*': () => 1 };
    assert.throws(() => createWorker({ ...options, queues: [], handlers }), /queues: name at least one lane/);
    assert.throws(() => createWorker({ ...options, queues: ['q'], handlers }), /"q" is not a lane/);
    assert.throws(() => createWorker({ ...options, queues: ['q:0'] }), /give handlers or an executor/);
    assert.throws(
      () => createWorker({ ...options, queues: ['q:0'], handlers, concurrency: 0 }),
      /concurrency: 0 is not/,
    );
    await assert.rejects(createWorker({ ...options, queues: ['none:0'], handlers }).start(), /unknown queue "none"/);
    const queue = await newQueue();
    await assert.rejects(
      createWorker({ ...options, queues: [`${queue}:0`], handlers: { '/v1/embeddings': () => 1 } }).start(),
      /no handler for \/v1\/chat\/completions/,
    );
    await assert.rejects(createWorker({ ...options, apiKey: 'sk-no', queues: [`${queue}:0`], handlers }).start(), {
      status: 401,
    });
    const { key } = await client.keys.create({ role: 'client' });
    await assert.rejects(createWorker({ ...options, apiKey: key, queues: [`${queue}:0`], handlers }).start(), {
      status: 403,
    });
  });

  test('says on stderr what it has to say', async (t) => {
    const written = t.mock.method(process.stderr, 'write', () => true);
    const queue = await newQueue();
    const worker = createWorker({
      ...options,
      queues: [`${queue}:0`],
      handlers: { '*': (_, { retryLater }) => retryLater({ delay_seconds: -1 }) },
    });
    t.after(() => worker.stop());
    await worker.start();
    await client.put(put(queue));
    const said = () => written.mock.calls.map(({ arguments: [line] }) => String(line));
    await until(async () => said().some((line) => /delay_seconds/.test(line)));
  });

  test('registers a queue that is not there for its endpoint', async (t) => {
    await startWorker(t, 'made-by-worker', { endpoint: '/v1/embeddings', handlers: { '/v1/embeddings': () => [1] } });
    assert.equal((await client.queues.get('made-by-worker')).endpoint, '/v1/embeddings');
  });

  test('says who it is, and takes as it is told', async (t) => {
    const queue = await newQueue();
    const bodies: string[] = [];
    const { open, handler } = gate();
    const proxy = await startProxy(server.url, (req) => {
      if (req.url === '/v1/queue/take') req.on('data', (bytes) => bodies.push(String(bytes)));
      return 'pass';
    });
    t.after(proxy.stop);
    const { worker } = await startWorker(t, queue, {
      baseUrl: proxy.url,
      handlers: { '*': handler },
      concurrency: 5,
      strategy: 'round_robin',
      leaseSeconds: 7,
      name: 'GPU one',
    });
    await until(async () => bodies.length === 1);
    await client.puts(Array.from({ length: 4 }, () => put(queue, { level: 1 })));
    await until(async () => bodies.length >= 2 && open.length === 4);
    const takes = bodies.map((body) => JSON.parse(body));
    const told = (take: Json) => [take.queues, take.size, take.strategy, take.lease_seconds];
    assert.deepEqual(told(takes[0]), [[`${queue}:0`, `${queue}:1`], 4, 'active_passive', 7]);
    // The reserve.
    assert.deepEqual(told(takes.at(-1)), [[`${queue}:0`], 1, 'round_robin', 7]);
    for (const one of open) one.let();
    const listed = (await client.workers.list()).find(({ id }) => id === worker.id);
    assert.deepEqual([listed?.name, listed?.capacities], ['GPU one', { [`${queue}:0`]: 5, [`${queue}:1`]: 4 }]);
  });
});

test('what a worker does outlasts the server: answers are accepted when it is back, and streams have every event once', async (t) => {
  const { start } = await ownDatabase(t);
  const first = await start();
  const mine = createClient({ baseUrl: first.url, apiKey: first.adminKey });
  const at = { baseUrl: first.url };
  for (const queue of ['answers', 'auto', 'http']) await mine.queues.register(queue, CHAT);

  const { open, handler, count } = gate();
  await startWorker(t, 'answers', { ...at, concurrency: 3, handlers: { '*': handler } });
  const ids = await mine.puts([0, 1, 2].map((n) => put('answers', { data: { n } })));
  await count(3);
  const all = Array.from({ length: 300 }, (_, n) => n);
  const streams = (['auto', 'http'] as const).map(async (transport) => {
    await startWorker(t, transport, {
      ...at,
      transport,
      handlers: {
        async *'*'() {
          for (const n of all) {
            yield n;
            await pause(2);
          }
        },
      },
    });
    const seen: unknown[] = [];
    for await (const event of mine.stream(put(transport))) {
      if (event.type === 'progress') seen.push(event.data);
      if (seen.length === 50) halfway();
    }
    return seen;
  });
  let waiting = streams.length;
  let allHalfway: () => void = () => undefined;
  const midstream = new Promise<void>((resolve) => {
    allHalfway = resolve;
  });
  const halfway = () => {
    if (--waiting === 0) allHalfway();
  };
  await midstream;
  await first.kill();
  for (const one of open) one.let({ n: one.task.data.n });
  await start({ env: { PORT: new URL(first.url).port } });

  for (const [n, id] of ids.entries()) {
    const { status, result, attempt } = await mine.wait(id);
    assert.deepEqual([status, result?.body, attempt], ['succeeded', { n }, 1]);
  }
  for (const stream of streams) assert.deepEqual(await stream, all);
});

describe('the process of a worker', { concurrency: true }, () => {
  /** Ready to take; `begun` resolves when its first task has begun: on the server it runs as soon as it is taken. */
  async function spawnWorker(t: TestContext, queue: string) {
    const child = spawn(process.execPath, [join(import.meta.dirname, 'worker-process.ts'), queue], {
      env: { ...process.env, TASKLANE_URL: server.url, TASKLANE_API_KEY: server.adminKey },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.after(() => child.kill('SIGKILL'));
    const lines = createInterface(child.stdout);
    await once(lines, 'line');
    return { child, begun: once(lines, 'line') };
  }

  test('that is killed gives its tasks back when their lease is over', async (t) => {
    const queue = await newQueue();
    const { child, begun } = await spawnWorker(t, queue);
    const id = await client.put(put(queue));
    await begun;
    child.kill('SIGKILL');
    await startWorker(t, queue, { handlers: { '*': (task: Task) => ({ attempt: task.attempt }) } });
    assert.deepEqual((await client.wait(id)).result?.body, { attempt: 2 });
  });

  test('that gets SIGTERM gives back what has not begun, ends what has, and is gone by that signal', async (t) => {
    const queue = await newQueue();
    const { child, begun } = await spawnWorker(t, queue);
    const ids = await client.puts([1, 2, 3].map((n) => put(queue, { level: 1, data: { n, ms: 300 } })));
    await until(async () => (await client.queues.stats(`${queue}:1`)).running === 3);
    await begun;
    child.kill('SIGTERM');
    assert.deepEqual(await once(child, 'exit'), [null, 'SIGTERM']);
    const tasks = await Promise.all(ids.map((id) => client.get(id)));
    assert.deepEqual(tasks.map(({ status }) => status).sort(), ['succeeded', 'waiting', 'waiting']);
    assert.deepEqual(
      tasks.flatMap(({ status, attempts }) => (status === 'waiting' ? attempts : [])),
      [],
    );
  });
});
