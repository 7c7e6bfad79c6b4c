import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type Receiver, startReceiver } from '../callbacks/receiver.ts';
import { createDatabase } from '../support/database.ts';
import { type Json, ownDatabase, type Server, startServer } from '../support/server.ts';
import { askStream, ENDPOINT, progress, talk, until } from './clients.ts';

// What queues before this one were caught breaking.

let database: Awaited<ReturnType<typeof createDatabase>>;
let server: Server;
let other: Server;
let receiver: Receiver;
let queues = 0;

before(async () => {
  receiver = await startReceiver();
  database = await createDatabase();
  [server, other] = await Promise.all([startServer({ url: database.url }), startServer({ url: database.url })]);
});
after(async () => {
  await Promise.all([server?.stop(), other?.stop()]);
  await receiver?.close();
  await database?.drop();
});

async function newQueue(settings: object = {}): Promise<string> {
  const queue = `promise${++queues}`;
  await talk(server).register(queue, settings);
  return queue;
}
const release = (taskId: string, body: object = {}) => server.request('POST', `/v1/queue/${taskId}/release`, body);
const cancel = (taskId: string) => server.request('POST', `/v1/queue/${taskId}/cancel`);
const keyed = (key: string, body: object, by: Server = server) =>
  by.request(
    'POST',
    '/v1/queue/put',
    { endpoint: ENDPOINT, data: {}, ...body },
    { headers: { 'Idempotency-Key': key } },
  );

/** A worker in a process of its own, and the tasks that it has left once it has answered the first `answered` of `size`. */
async function startHolder(queue: string, size: number, answered: number, leaseSeconds: number) {
  const script = join(import.meta.dirname, 'holder.ts');
  const worker = spawn(process.execPath, [script, server.url, queue, ...[size, answered, leaseSeconds].map(String)], {
    env: { PATH: process.env.PATH, WORKER_KEY: server.adminKey },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [said] = await once(worker.stdout as NodeJS.ReadableStream, 'data');
  const exited = once(worker, 'exit');
  return {
    left: String(said).trim().split(' '),
    async kill(signal: NodeJS.Signals) {
      worker.kill(signal);
      return exited;
    },
  };
}
const reasons = async (taskId: string): Promise<unknown[]> =>
  (await talk(other).task(taskId)).attempts.map((one: Json) => [one.attempt, one.worker, one.reason]);

test('a worker killed with -9 in the middle costs each task that it had one further run, and no finished one runs again', async () => {
  const queue = await newQueue();
  const ids = await talk(server).puts(queue, 10);
  const worker = await startHolder(queue, 10, 5, 3);
  assert.deepEqual(worker.left, ids.slice(5));
  await worker.kill('SIGKILL');

  for (const id of worker.left) {
    const again = await talk(other).takeOne(queue);
    assert.deepEqual([again.task_id, again.attempt], [id, 2]);
    await talk(other).complete(id);
  }
  const last = await talk(server).put(queue, { priority: 'low' });
  assert.deepEqual(
    (await talk(server).take(queue, { size: 10 })).map((task) => task.task_id),
    [last],
  );
  for (const id of ids.slice(0, 5)) assert.deepEqual(await reasons(id), [[1, 'holder', 'succeeded']]);
  for (const id of worker.left)
    assert.deepEqual(await reasons(id), [
      [1, 'holder', 'lapsed'],
      [2, null, 'succeeded'],
    ]);
});

test('a worker that is asked to stop gives back what it had not begun: nothing fails, and no attempt is counted', async () => {
  const queue = await newQueue({ max_attempts: 1 });
  const ids = await talk(server).puts(queue, 4);
  const worker = await startHolder(queue, 4, 1, 3600);
  assert.deepEqual(await worker.kill('SIGTERM'), [0, null]);
  for (const id of ids.slice(1)) {
    const again = await talk(other).takeOne(queue);
    assert.deepEqual([again.task_id, again.attempt], [id, 1]);
    await talk(other).complete(id);
  }
  for (const id of ids) assert.equal((await talk(other).task(id)).status, 'succeeded');
});

test('a task that waits for its retry runs at its time although every server was killed meanwhile', async (t) => {
  const { start } = await ownDatabase(t);
  const first = await start();
  await talk(first).register('q');
  const id = await talk(first).put('q');
  await talk(first).takeOne('q');
  await first.request('POST', `/v1/queue/${id}/release`, { delay_seconds: 3 });
  const { run_at: runAt, status } = await talk(first).task(id);
  assert.equal(status, 'deferred');
  await first.kill('SIGKILL');
  const second = await start();
  const task = await talk(second).takeOne('q');
  assert.deepEqual([task.task_id, task.attempt], [id, 2]);
  assert.ok((await talk(second).task(id)).running_time >= runAt, 'it ran before its time');
});

test('a server that is asked to stop leaves what runs as it is, and its worker ends it at the next one', async (t) => {
  const { start } = await ownDatabase(t);
  const first = await start();
  await talk(first).register('q');
  const id = await talk(first).put('q');
  const { attempt } = await talk(first).takeOne('q');
  assert.deepEqual(await first.kill('SIGTERM'), { code: 0, signal: null });
  const second = await start();
  assert.equal((await talk(second).task(id)).status, 'running');
  const answer = await second.request('POST', `/v1/queue/${id}/complete`, { status_code: 200, body: 1, attempt });
  assert.equal(answer.status, 200);
  assert.deepEqual((await talk(second).task(id)).attempts.length, 1);
});

test('what was cancelled stays so, running or waiting for a retry, and what was completed can not be', async () => {
  const queue = await newQueue();
  const [running, retrying, completed] = await talk(server).puts(queue, 3);
  await talk(server).take(queue, { size: 3 });
  await release(retrying as string, { delay_seconds: 0.3 });
  await talk(server).complete(completed as string);
  for (const id of [running, retrying]) assert.equal((await cancel(id as string)).status, 202);
  assert.equal((await cancel(completed as string)).status, 409);
  for (const call of [release(running as string), release(retrying as string)]) assert.equal((await call).status, 409);
  await assert.rejects(talk(server).complete(running as string), /409/);
  assert.deepEqual(await talk(other).take(queue, { size: 3, wait: 1 }), []);
  for (const id of [running, retrying]) assert.equal((await talk(server).task(id as string)).status, 'cancelled');
  assert.equal((await talk(server).task(completed as string)).status, 'succeeded');
});

test('a client that waits for a task which fails once and then succeeds gets one answer: the success', async () => {
  const queue = await newQueue({ retry: { initial_seconds: 0.1 } });
  const asked = talk(server).ask(queue);
  const { task_id: id } = await talk(other).takeOne(queue);
  await other.request('POST', `/v1/queue/${id}/release`, { reason: '503 from the model' });
  assert.equal((await talk(other).takeOne(queue)).attempt, 2);
  await talk(other).complete(id, { done: true });
  const answer = await asked;
  assert.deepEqual([answer.status, answer.text], [200, '{"done":true}']);
});

test('a task with a time to run is not started before it, in any mode and by any server', async () => {
  const queue = await newQueue();
  const runAt = Date.now() + 1500;
  const put = await talk(server).put(queue, { run_at: runAt });
  const puts = await talk(server).puts(queue, 2, { run_at: new Date(runAt).toISOString() });
  const asked = talk(server).ask(queue, { run_at: runAt });
  const stream = await askStream(server, queue, { run_at: runAt });
  const taken: string[] = [];
  while (taken.length < 5) {
    const task = await talk(other).takeOne(queue);
    const { running_time: at } = await talk(other).task(task.task_id);
    assert.ok(at >= runAt, `${task.task_id} ran ${runAt - at} ms before its time`);
    taken.push(task.task_id);
    await talk(other).complete(task.task_id, task.response_mode);
  }
  assert.equal((await asked).text, '"blocking"');
  await stream.ended;
  assert.deepEqual(
    stream.events.map(({ data }) => data.body),
    ['streaming'],
  );
  for (const id of [put, ...puts]) assert.ok(taken.includes(id));
});

test('fifty puts under one key over two servers make one task, whose id every one gets', async () => {
  const queue = await newQueue();
  const answers = await Promise.all(
    Array.from({ length: 50 }, (_, n) => keyed('fifty', { queue }, n % 2 ? server : other)),
  );
  assert.deepEqual(new Set(answers.map((answer) => answer.status)), new Set([200]));
  const ids = new Set(answers.map((answer) => answer.json.data));
  assert.equal(ids.size, 1);
  assert.equal((await talk(server).take(queue, { size: 50 })).length, 1);
  const another = await keyed('fifty', { queue, data: { other: true } });
  assert.equal(another.status, 409);
  assert.ok(another.json.message.includes([...ids][0]), another.text);
});

test('fifty blocking puts under one key over two servers are one task, whose answer every one gets', async () => {
  const queue = await newQueue();
  const body = { queue, response_mode: 'blocking' };
  const asked = Array.from({ length: 50 }, (_, n) => keyed('fifty blocking', body, n % 2 ? server : other));
  const task = await talk(server).takeOne(queue);
  await talk(server).complete(task.task_id, { only: 'one' });
  for (const answer of await Promise.all(asked)) {
    assert.deepEqual([answer.status, answer.text], [200, '{"only":"one"}']);
    assert.equal(answer.headers.get('x-task-id'), task.task_id);
  }
  const late = await keyed('fifty blocking', body, other);
  assert.deepEqual([late.status, late.text], [200, '{"only":"one"}']);
  assert.deepEqual(await talk(server).take(queue, { size: 50 }), []);
});

test('fifty streams under one key over two servers are one task, all of whose events every one gets', async () => {
  const queue = await newQueue();
  const open = (n: number) => askStream(n % 2 ? server : other, queue, { idempotency_key: 'fifty streams' });
  const streams = await Promise.all(Array.from({ length: 50 }, (_, n) => open(n)));
  const { task_id: id } = await talk(server).takeOne(queue);
  for (const n of [1, 2, 3]) await talk(n % 2 ? server : other).emit([progress(id, n)]);
  await talk(other).complete(id, 'end');
  for (const stream of [...streams, await open(1)]) {
    await stream.ended;
    assert.equal(stream.taskId, id);
    assert.deepEqual(
      stream.events.map(({ event, data }) => [event, event === 'chunk' ? data : data.body]),
      [
        ['chunk', 1],
        ['chunk', 2],
        ['chunk', 3],
        ['completion', 'end'],
      ],
    );
  }
  assert.deepEqual(await talk(server).take(queue, { size: 50 }), []);
});

test('a server killed under keyed puts leaves no key without its task, and no second task for a key', async (t) => {
  const { start } = await ownDatabase(t);
  const first = await start();
  await talk(first).register('q');
  const keys = Array.from({ length: 600 }, (_, n) => `key ${n}`);
  const acknowledged = new Map<string, string>();
  const left = [...keys];
  const putters = Array.from({ length: 32 }, async () => {
    for (let key = left.pop(); key !== undefined; key = left.pop()) {
      const answer = await keyed(key, { queue: 'q', data: { key } }, first).catch(() => undefined);
      if (!answer) return;
      acknowledged.set(key, answer.json.data);
    }
  });
  await until('some hundred keys are acknowledged', async () => acknowledged.size > 300);
  await first.kill('SIGKILL');
  await Promise.all(putters);
  assert.ok(acknowledged.size < keys.length, 'it was killed too late to tell anything');

  const second = await start();
  const ids = new Set<string>();
  for (let from = 0; from < keys.length; from += 100) {
    await Promise.all(
      keys.slice(from, from + 100).map(async (key) => {
        const answer = await keyed(key, { queue: 'q', data: { key } }, second);
        assert.equal(answer.status, 200, answer.text);
        const before = acknowledged.get(key);
        if (before !== undefined) assert.equal(answer.json.data, before);
        ids.add(answer.json.data);
      }),
    );
  }
  assert.equal(ids.size, keys.length);
  const taken: string[] = [];
  for (
    let tasks = await talk(second).take('q', { size: 1000 });
    tasks.length > 0;
    tasks = await talk(second).take('q', { size: 1000 })
  )
    taken.push(...tasks.map((task) => task.task_id));
  assert.deepEqual(new Set(taken), ids);
  assert.equal(taken.length, ids.size);
});

test('a blocking client whose connection breaks comes back under its key and gets the answer', async () => {
  const queue = await newQueue();
  const broken = new AbortController();
  const body = { queue, response_mode: 'blocking' };
  const lost = server.request(
    'POST',
    '/v1/queue/put',
    { endpoint: ENDPOINT, data: {}, ...body },
    { headers: { 'Idempotency-Key': 'comes back' }, signal: broken.signal },
  );
  const task = await talk(server).takeOne(queue);
  broken.abort();
  await assert.rejects(lost);
  const back = keyed('comes back', body, other);
  await talk(server).complete(task.task_id, 'still there');
  assert.deepEqual([(await back).status, (await back).text], [200, '"still there"']);
});

// Two steps of a second, each noticed within half a second; the rest is for a busy machine.
const AGEING_BOUND_MS = 2 * 1500 + 5000;
test('a low priority starts within its bound under a constant load of higher ones where its queue ages, and there alone', async () => {
  const [ageing, strict] = [await newQueue({ aging_seconds: 1 }), await newQueue()];
  const [aged, stuck] = [
    await talk(server).put(ageing, { priority: 3 }),
    await talk(server).put(strict, { priority: 3 }),
  ];
  for (const queue of [ageing, strict]) await talk(server).puts(queue, 5);
  await until('the low one is taken where it ages', async () => {
    const taken: string[] = [];
    for (const queue of [ageing, strict]) {
      await talk(server).put(queue);
      const [task] = await talk(server).take(queue);
      taken.push(task.task_id);
    }
    assert.ok(!taken.includes(stuck), 'it was taken where nothing ages');
    return taken.includes(aged);
  });
  assert.equal((await talk(server).task(stuck)).status, 'waiting');
  const { start_time: put, running_time: started } = await talk(server).task(aged);
  assert.ok(started - put >= 2000, 'it waits for two steps');
  assert.ok(started - put <= AGEING_BOUND_MS, `it waited ${started - put} ms`);
});

test('within a lane tasks start by priority and then by age, whatever their data says of how long they take', async () => {
  const queue = await newQueue();
  const put = (predicted: number, priority: string) =>
    talk(server).put(queue, { priority, data: { predicted_ms: predicted, text: 'x'.repeat(predicted) } });
  const order = [
    await put(5000, 'normal'),
    await put(1, 'normal'),
    await put(9000, 'high'),
    await put(2, 'high'),
    await put(1, 'low'),
  ];
  const taken = [];
  while (taken.length < 5) taken.push((await talk(other).takeOne(queue)).task_id);
  assert.deepEqual(
    taken,
    [2, 3, 0, 1, 4].map((n) => order[n]),
  );
});

test('a thousand trivial tasks pass through four slots, each once', async () => {
  const queue = await newQueue();
  const ids = new Set(await talk(server).puts(queue, 1000));
  const done: string[] = [];
  const begun = performance.now();
  await Promise.all(
    [server, other, server, other].map(async (slot) => {
      for (let [task] = await talk(slot).take(queue); task; [task] = await talk(slot).take(queue)) {
        await talk(slot).complete(task.task_id);
        done.push(task.task_id);
      }
    }),
  );
  // A look a second would let four a second through: 250 s.
  assert.ok(performance.now() - begun < 60_000, 'a take waits for nothing');
  assert.equal(done.length, 1000);
  assert.deepEqual(new Set(done), ids);
});

test('a callback task that waits in an online lane is told of its deadline within two seconds of it', async () => {
  const queue = await newQueue();
  const id = await talk(server).put(queue, { timeout: 1, callback_url: receiver.url() });
  const delivery = await receiver.next();
  delivery.answer(200);
  assert.equal(delivery.headers['x-task-id'], id);
  assert.equal(JSON.parse(delivery.body).status_code, 408);
  const { status, expire_time: due, completed_time: at } = await talk(server).task(id);
  assert.equal(status, 'expired');
  assert.ok(at >= due && at - due < 2000, `${at - due} ms after its deadline`);
});
