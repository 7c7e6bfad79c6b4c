import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, describe, test } from 'node:test';
import {
  ApiError,
  AuthenticationError,
  BadRequestError,
  ConflictError,
  ConnectionError,
  chat,
  createClient,
  embed,
  generate,
  NotFoundError,
  PermissionDeniedError,
  type Task,
  TaskEndedError,
} from '../../client/client.ts';
import { startServer, until } from '../support/server.ts';
import { type Fate, startProxy } from './proxy.ts';

const CHAT = '/v1/chat/completions';
const server = await startServer();
const admin = createClient({ baseUrl: server.url, apiKey: server.adminKey });
const client = createClient({ baseUrl: server.url, apiKey: await server.key('client') });
const workerKey = await server.key('worker');
after(() => server.stop());

let queues = 0;
async function newQueue(settings = {}, endpoint = CHAT): Promise<string> {
  const name = `q${++queues}`;
  await admin.queues.register(name, endpoint, settings);
  return name;
}

const asWorker = (path: string, body: unknown) => server.request('POST', path, body, { key: workerKey });

async function take(lane: string): Promise<Task> {
  const { json } = await asWorker('/v1/queue/take', { queues: [lane], size: 1, wait: 30 });
  return json[lane][0];
}

async function answer(lane: string, body: unknown = { text: 'hello' }, status = 200): Promise<Task> {
  const task = await take(lane);
  await asWorker(`/v1/queue/${task.task_id}/complete`, { status_code: status, body, attempt: task.attempt });
  return task;
}

const put = (queue: string, more = {}) => ({ queue, endpoint: CHAT, data: { model: 'm' }, ...more });

describe('a put', { concurrency: true }, () => {
  test('gives the id of a task that can be read, listed, and waited for', async () => {
    const queue = await newQueue();
    const id = await client.put(put(queue, { priority: 'high', metadata: { a: 'b' } }));
    const task = await client.get(id);
    assert.deepEqual(
      [task.status, task.priority, task.data, task.metadata],
      ['waiting', 10, { model: 'm' }, { a: 'b' }],
    );
    const listed = [];
    for await (const one of client.list({ queue })) listed.push(one.task_id);
    assert.deepEqual(listed, [id]);
    const waiting = client.wait(id);
    await answer(`${queue}:0`);
    const { status, result } = await waiting;
    assert.deepEqual([status, result?.status_code, result?.body], ['succeeded', 200, { text: 'hello' }]);
    assert.equal((await client.wait(id)).status, 'succeeded');
  });

  test('of many gives their ids in order, a thousand a call', async () => {
    const queue = await newQueue();
    const ids = await client.puts(Array.from({ length: 1001 }, (_, n) => put(queue, { data: { n } })));
    assert.equal(new Set(ids).size, 1001);
    assert.deepEqual((await client.get(ids[1000] as string)).data, { n: 1000 });
    let count = 0;
    for await (const _ of client.list({ queue, limit: 500 })) count++;
    assert.equal(count, 1001);
    assert.equal((await client.list({ queue, limit: 3 }).page()).data.length, 3);
  });

  test('that waits gives whatever the worker answered, and its status', async () => {
    const queue = await newQueue();
    const good = client.putAndWait<{ text: string }>(put(queue));
    const { task_id } = await answer(`${queue}:0`);
    assert.deepEqual(await good, { task_id, status_code: 200, body: { text: 'hello' } });
    for (const status of [404, 429, 502, 503]) {
      const bad = client.putAndWait(put(queue));
      await answer(`${queue}:0`, { error: { message: 'no' } }, status);
      const { status_code, body } = await bad;
      assert.deepEqual([status_code, body], [status, { error: { message: 'no' } }]);
    }
  });

  test('that dies with an answer of the model server is answered with it, waited for or streamed', async () => {
    const queue = await newQueue();
    const body = { error: { message: 'CUDA out of memory' } };
    for (const status_code of [502, 408]) {
      const asked = client.putAndWait(put(queue, { max_attempts: 1 }));
      const stream = client.stream(put(queue, { max_attempts: 1 }));
      const events = (async () => {
        const all = [];
        for await (const event of stream) all.push(event);
        return all;
      })();
      for (let n = 0; n < 2; n++) {
        const { task_id } = await take(`${queue}:0`);
        await asWorker(`/v1/queue/${task_id}/release`, { answer: { status_code, body } });
      }
      const { task_id, ...answer } = await asked;
      assert.deepEqual(answer, { status_code, body });
      const result = { status_code, request_id: await stream.taskId, body };
      assert.deepEqual(await events, [{ type: 'completion', result }]);
      assert.equal((await client.get(task_id)).status, 'dead');
    }
  });

  test('that waits throws when there will be no answer, and says why', async () => {
    const queue = await newQueue();
    const cancelled = client.putAndWait(put(queue));
    await client.cancel((await take(`${queue}:0`)).task_id);
    await assert.rejects(cancelled, (error: TaskEndedError) => {
      assert.ok(error instanceof TaskEndedError);
      assert.equal(error.status, 'cancelled');
      assert.match(error.taskId, /^TASK-/);
      return true;
    });
    await assert.rejects(client.putAndWait(put(queue, { timeout: 1 })), { name: 'TaskEndedError', status: 'expired' });
  });

  test('that waits is withdrawn when it is aborted', async () => {
    const queue = await newQueue();
    const leave = new AbortController();
    const asked = client.putAndWait(put(queue), { signal: leave.signal });
    const { task_id } = await take(`${queue}:0`);
    leave.abort(new Error('enough'));
    await assert.rejects(asked, { message: 'enough' });
    assert.equal((await client.wait(task_id)).status, 'cancelled');
  });

  test('that streams gives each event and at last the answer', async () => {
    const queue = await newQueue();
    const stream = client.stream(put(queue));
    const working = (async () => {
      const { task_id, attempt } = await take(`${queue}:0`);
      const event = (eventData: unknown) => ({
        name: 'task-progress-event',
        payload: { taskId: task_id, eventName: 'chunk', eventData, attempt },
      });
      await asWorker('/v1/queue/events', [event({ n: 1 }), event({ n: 2 })]);
      await asWorker(`/v1/queue/${task_id}/complete`, { status_code: 200, body: { done: true } });
      return task_id;
    })();
    const events = [];
    for await (const event of stream) events.push(event);
    const id = await working;
    assert.equal(await stream.taskId, id);
    assert.deepEqual(events, [
      { type: 'progress', id: '1', name: 'chunk', data: { n: 1 } },
      { type: 'progress', id: '2', name: 'chunk', data: { n: 2 } },
      { type: 'completion', result: { status_code: 200, request_id: id, body: { done: true } } },
    ]);
    const again = [];
    for await (const event of client.follow(id, { lastEventId: '1' })) again.push(event);
    assert.deepEqual(again, events.slice(1));
  });

  test('that streams throws when there will be no answer', async () => {
    const queue = await newQueue();
    const stream = client.stream(put(queue));
    const reading = (async () => {
      for await (const _ of stream);
    })();
    await client.cancel((await take(`${queue}:0`)).task_id);
    await assert.rejects(reading, { name: 'TaskEndedError', status: 'cancelled' });
    const refused = client.stream(put('nowhere'));
    await assert.rejects(refused[Symbol.asyncIterator]().next(), NotFoundError);
    await assert.rejects(refused.taskId, NotFoundError);
  });
});

describe('what fails', { concurrency: true }, () => {
  test('has a class of its own, with the fields at fault and the id of the request', async () => {
    const queue = await newQueue();
    await assert.rejects(client.put({ ...put(queue), level: 100 }), (error: BadRequestError) => {
      assert.ok(error instanceof BadRequestError && error instanceof ApiError);
      assert.deepEqual([error.status, error.details[0]?.path], [400, 'level']);
      assert.match(error.requestId as string, /./);
      assert.doesNotMatch(error.message, /\n/);
      return true;
    });
    await assert.rejects(client.get('TASK-none'), NotFoundError);
    await assert.rejects(client.keys.list(), PermissionDeniedError);
    await assert.rejects(createClient({ baseUrl: server.url, apiKey: 'sk-wrong' }).list().page(), AuthenticationError);
    const id = await client.put(put(queue));
    await answer(`${queue}:0`);
    await assert.rejects(client.cancel(id), ConflictError);
    await assert.rejects(client.batches.get('BATCH-0-1-250101000000-0000-000001'), {
      name: 'NotFoundError',
      message: /No batch found/,
    });
    assert.throws(() => createClient({ baseUrl: 'nowhere' }), /baseUrl: "nowhere" is not a URL/);
    assert.throws(() => createClient({ baseUrl: 'ftp://host' }), /not an http/);
  });

  test('for want of a server is a ConnectionError that names the address, after some tries', async () => {
    const free = createServer().listen(0, '127.0.0.1');
    await once(free, 'listening');
    const { port } = free.address() as AddressInfo;
    free.close();
    const lost = createClient({ baseUrl: `http://127.0.0.1:${port}`, maxRetries: 1 });
    await assert.rejects(lost.list().page(), (error: ConnectionError) => {
      assert.ok(error instanceof ConnectionError);
      assert.match(error.message, new RegExp(`127.0.0.1:${port}.*ECONNREFUSED`));
      assert.equal(error.unsent, true);
      return true;
    });
  });
});

/** A client whose requests go through a proxy; each takes the next fate of the list, and those after it pass. */
async function throughProxy(fates: Fate[], options = {}) {
  const proxy = await startProxy(server.url, () => fates.shift() ?? 'pass');
  return {
    proxy,
    client: createClient({ baseUrl: proxy.url, apiKey: server.adminKey, ...options }),
    [Symbol.asyncDispose]: proxy.stop,
  };
}

describe('a request that fails for a reason that may pass', { concurrency: true }, () => {
  test('is repeated, and a put whose reply was lost has put one task', async () => {
    const queue = await newQueue();
    await using lost = await throughProxy(['lose', { status: 503 }, 'lose']);
    const id = await lost.client.put(put(queue));
    assert.equal(lost.proxy.requests.length, 4);
    assert.deepEqual(
      (await client.list({ queue }).page()).data.map((task) => task.task_id),
      [id],
    );
    await using many = await throughProxy(['lose']);
    const ids = await many.client.puts([put(queue), put(queue)]);
    assert.equal((await client.list({ queue }).page()).data.length, 3);
    assert.equal(new Set([id, ...ids]).size, 3);
  });

  test('waits on for the same task when the reply was lost', async () => {
    const queue = await newQueue();
    await using lost = await throughProxy(['lose']);
    const asked = lost.client.putAndWait(put(queue));
    await answer(`${queue}:0`);
    const { status_code } = await asked;
    assert.equal(status_code, 200);
    assert.equal((await client.list({ queue }).page()).data.length, 1);
  });

  test('leaves no connection open when it is done', async () => {
    const queue = await newQueue();
    await using seen = await throughProxy([]);
    const id = await seen.client.put(put(queue));
    const waiting = seen.client.wait(id);
    await until(async () => seen.proxy.open > 0);
    await answer(`${queue}:0`);
    await waiting;
    assert.equal((await seen.client.wait(id)).status, 'succeeded');
    await until(async () => seen.proxy.open === 0);
  });

  test('is not repeated where that could do it twice, or the client has had enough', async () => {
    await using once = await throughProxy(['lose']);
    const made = once.client.keys.create({ role: 'client', name: 'made-once' });
    await assert.rejects(made, ConnectionError);
    assert.equal((await admin.keys.list()).filter(({ name }) => name === 'made-once').length, 1);
    await using never = await throughProxy([{ status: 503 }, { status: 503 }], { maxRetries: 1 });
    await assert.rejects(never.client.queues.list(), { status: 503 });
    assert.equal(never.proxy.requests.length, 2);
  });

  test('is repeated when the server said', async () => {
    await using limited = await throughProxy([{ status: 429, headers: { 'retry-after': '1' } }]);
    const began = performance.now();
    await limited.client.keys.create({ role: 'client' });
    assert.ok(performance.now() - began >= 990);
    await using far = await throughProxy([{ status: 429, headers: { 'retry-after': '3600' } }]);
    await assert.rejects(far.client.queues.list(), { name: 'RateLimitError', retryAfter: 3600 });
  });

  test('goes on with a stream where it broke off, without losing or repeating an event', async () => {
    const queue = await newQueue();
    await using cut = await throughProxy(['cut', 'cut', 'cut']);
    const seen: unknown[] = [];
    const reading = (async () => {
      for await (const event of cut.client.stream(put(queue)))
        seen.push(event.type === 'progress' ? event.data : event.type);
    })();
    const { task_id: taskId } = await take(`${queue}:0`);
    for (let n = 1; n <= 6; n++) {
      await asWorker('/v1/queue/events', {
        name: 'task-progress-event',
        payload: { taskId, eventName: 'chunk', eventData: n },
      });
    }
    await asWorker(`/v1/queue/${taskId}/complete`, { status_code: 200, body: {} });
    await reading;
    assert.deepEqual(seen, [1, 2, 3, 4, 5, 6, 'completion']);
    assert.ok(cut.proxy.requests.length >= 3);
  });
});

test('the feed tells what happens, filtered, and goes on after the event that is named', async () => {
  const queue = await newQueue();
  const leave = new AbortController();
  const opened = client.events({ queue, types: ['submitted', 'completed'] }, { signal: leave.signal });
  const first = opened.next();
  // The feed starts when it is open, which nobody is told: so tasks are put until one is seen.
  const putting = setInterval(() => void client.put(put(queue)), 50);
  const { value } = await first;
  clearInterval(putting);
  assert.ok(value);
  assert.deepEqual([value.type, value.queue, value.status], ['submitted', queue, 'waiting']);
  await answer(`${queue}:0`);
  leave.abort(new Error('enough'));
  await assert.rejects(async () => {
    for await (const _ of opened);
  }, /enough/);
  for await (const event of client.events({ queue, types: ['completed'], lastEventId: value.id })) {
    assert.equal(event.type, 'completed');
    break;
  }
});

test('what a server is set up with can be read and changed', async () => {
  const queue = await newQueue({ max_attempts: 1 });
  assert.equal((await admin.queues.get(queue)).max_attempts, 1);
  assert.equal((await admin.queues.update(queue, { max_depth: 5 })).max_depth, 5);
  assert.equal((await admin.queues.pause(queue)).paused, true);
  assert.equal((await admin.queues.resume(queue)).paused, false);
  await client.put(put(queue, { level: 1 }));
  assert.equal(await admin.queues.backlog(`${queue}:1`), 1);
  assert.equal((await admin.queues.stats(`${queue}:1`)).waiting, 1);
  assert.ok((await admin.stats()).some((lane) => lane.queue === queue && lane.waiting === 1));
  const reason = `no worker takes from ${queue}:1`;
  assert.deepEqual((await client.queues.list()).find((one) => one.queue === queue)?.levels, [
    { level: 1, waiting: 1, deferred: 0, running: 0, rule: 'no_worker', reason },
  ]);
  assert.equal(await admin.queues.clear(`${queue}:1`), 1);

  const channel = await admin.channels.create({ endpoint: CHAT, model: 'routed', queue });
  assert.ok((await client.channels.list()).some(({ id }) => id === channel.id));
  const routed = await client.put({ endpoint: CHAT, data: { model: 'routed' } });
  assert.equal((await client.get(routed)).queue, queue);
  assert.equal((await client.setPriority(routed, 'critical')).priority, 15);
  await client.cancel(routed);
  await admin.channels.remove(channel.id);

  const dying = await client.put(put(queue));
  const { task_id } = await take(`${queue}:0`);
  await asWorker(`/v1/queue/${task_id}/release`, { delay_seconds: 0 });
  const dead = [];
  for await (const task of client.dead.list({ queue })) dead.push(task.task_id);
  assert.deepEqual(dead, [dying]);
  await client.dead.replay(dying);
  assert.equal((await client.get(dying)).status, 'waiting');
  await take(`${queue}:0`);
  await asWorker(`/v1/queue/${task_id}/release`, { delay_seconds: 0 });
  assert.equal(await client.dead.replayAll({ queue }), 1);
  await take(`${queue}:0`);
  await asWorker(`/v1/queue/${task_id}/release`, { delay_seconds: 0 });
  await client.dead.purge(queue);
  assert.deepEqual((await client.dead.list({ queue }).page()).data, []);
  await admin.queues.remove(queue);
  await assert.rejects(client.queues.get(queue), NotFoundError);

  const key = await admin.keys.create({ role: 'worker', name: 'gpu' });
  assert.match(key.key, /^sk-/);
  await admin.keys.revoke(key.id);
  assert.ok(!(await admin.keys.list()).some(({ id }) => id === key.id));
  const lane = await newQueue();
  await asWorker('/v1/queue/take', { queues: [`${lane}:0`], size: 1, worker: { id: 'gpu-7' } });
  await admin.workers.drain('gpu-7');
  assert.deepEqual(
    (await admin.workers.list()).map(({ id, draining }) => [id, draining]),
    [['gpu-7', true]],
  );
  await admin.workers.resume('gpu-7');
  assert.equal((await admin.workers.list())[0]?.draining, false);
  assert.deepEqual(Object.keys((await client.request('GET', '/v1/models')) as object), ['object', 'data']);
});

test('a schedule is made, previewed, changed and removed', async () => {
  const queue = await newQueue();
  const made = await client.schedules.create({ name: 'nightly', cron: '0 3 * * *', task: put(queue) });
  assert.deepEqual([made.timezone, made.enabled, made.run_count], ['UTC', true, 0]);
  assert.equal((await client.schedules.update(made.id, { cron: '0 4 * * *' })).cron, '0 4 * * *');
  assert.equal((await client.schedules.disable(made.id)).enabled, false);
  assert.equal((await client.schedules.enable(made.id)).enabled, true);
  assert.equal((await client.schedules.get(made.id)).name, 'nightly');
  const names = [];
  for await (const { name } of client.schedules.list({ limit: 1 })) names.push(name);
  assert.deepEqual(names, ['nightly']);
  const [first, second] = await client.schedules.preview({ cron: '0 3 * * *', timezone: 'Europe/Berlin', count: 2 });
  assert.equal((second as number) - (first as number), 86_400_000);
  await client.schedules.remove(made.id);
  await assert.rejects(client.schedules.get(made.id), NotFoundError);
});

test('a batch is submitted as lines, waited for with its progress, and its results come as they end', async () => {
  const queue = await newQueue();
  const lines = Array.from({ length: 3 }, (_, n) => ({
    custom_id: `line-${n}`,
    method: 'POST' as const,
    url: CHAT,
    body: { model: 'm', messages: [{ role: 'user', content: `${n}` }] },
  }));
  const batch = await client.batches.submit(lines, { queue, metadata: { by: 'me' } });
  assert.deepEqual([batch.endpoint, batch.metadata], [CHAT, { by: 'me' }]);
  const results = (async () => {
    const got: string[] = [];
    for await (const { custom_id, response } of client.batches.results(batch.id))
      got.push(`${custom_id} ${response?.status_code}`);
    return got;
  })();
  const counts: number[] = [];
  const waiting = client.batches.wait(batch.id, {
    onProgress: ({ request_counts: { completed } }) => counts.push(completed),
  });
  for (let n = 0; n < 3; n++) await answer(`${queue}:1`, { n }, n === 1 ? 500 : 200);
  const ended = await waiting;
  assert.deepEqual([ended.status, ended.request_counts], ['completed', { total: 3, completed: 2, failed: 1 }]);
  assert.equal(counts.at(-1), 2);
  assert.deepEqual((await results).sort(), ['line-0 200', 'line-1 500', 'line-2 200']);
  const output = await (await client.files.content(ended.output_file_id as string)).text();
  assert.equal(output.trim().split('\n').length, 2);
  assert.equal((await client.batches.explain(batch.id)).status, 'completed');
  const again = await client.batches.retryFailed(batch.id);
  assert.equal(again.metadata?.retry_of, batch.id);
  assert.equal((await client.batches.pause(again.id)).id, again.id);
  await client.batches.resume(again.id);
  await client.batches.cancel(again.id);
  assert.equal((await client.batches.wait(again.id)).status, 'cancelled');
  assert.deepEqual(
    (await client.batches.list({ limit: 1 }).page()).data.map(({ id }) => id),
    [again.id],
  );

  const text = `\uFEFF${lines.map((line) => JSON.stringify(line)).join('\n')}`;
  const file = await client.files.upload(text, { filename: 'in.jsonl' });
  assert.deepEqual([file.filename, file.purpose], ['in.jsonl', 'batch']);
  assert.equal((await client.batches.validate({ input_file_id: file.id, endpoint: CHAT, queue })).total, 3);
  await client.files.remove(file.id);
  await assert.rejects(client.files.get(file.id), NotFoundError);
  await assert.rejects(client.batches.submit('{}'), /names no url/);
});

test('builders shape a task for its endpoint', () => {
  const messages = [{ role: 'user' as const, content: 'Hello, you' }];
  assert.deepEqual(
    chat({ model: 'm', messages, system: 'Be brief', priority: 'high', parameters: { temperature: 0 } }),
    {
      endpoint: CHAT,
      priority: 'high',
      data: { model: 'm', messages: [{ role: 'system', content: 'Be brief' }, ...messages], temperature: 0 },
    },
  );
  assert.deepEqual(
    generate({ model: 'm', prompt: 'p', endpoint: '/api/generate', template: '{{ .Prompt }}', raw: true }),
    {
      endpoint: '/api/generate',
      data: { model: 'm', prompt: 'p', template: '{{ .Prompt }}', raw: true },
    },
  );
  assert.deepEqual(generate({ model: 'm', prompt: 'p', system: 's', endpoint: CHAT, stream: true }), {
    endpoint: CHAT,
    data: {
      model: 'm',
      messages: [
        { role: 'system', content: 's' },
        { role: 'user', content: 'p' },
      ],
      stream: true,
    },
  });
  assert.deepEqual(embed({ model: 'm', input: ['a', 'b'], truncate: false, queue: 'q' }), {
    endpoint: '/v1/embeddings',
    queue: 'q',
    data: { model: 'm', input: ['a', 'b'], truncate: false },
  });
});
