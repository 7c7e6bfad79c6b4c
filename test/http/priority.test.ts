import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Json } from '../support/server.ts';
import { assertRefused, CHAT, fixture, NO_SUCH_TASK } from './fixture.ts';

const f = fixture();

const task = async (id: string): Promise<Json> => (await f.client('GET', `/v1/queue/${id}`)).json;
const change = (id: string, priority: unknown, as = f.client) => as('PATCH', `/v1/queue/${id}`, { priority });
const taken = async (lane: string): Promise<string[]> => (await f.take(lane, { size: 1000 })).map((one) => one.task_id);

describe('a priority', { concurrency: true }, () => {
  test('is a number or a name, 5 where none is given, and the task tells it', async () => {
    const queue = await f.queue();
    for (const [priority, told] of [
      ['low', 1],
      ['normal', 5],
      ['high', 10],
      ['critical', 15],
      [0, 0],
      [100, 100],
      [null, 5],
      [undefined, 5],
    ] as const)
      assert.equal((await task(await f.put(queue, { priority }))).priority, told, `${priority}`);
  });

  test('decides within a lane, and among equals the order of the puts', async () => {
    const queue = await f.queue();
    const levels = [0, 'low', 'normal', 6, 'high', 'critical', 16, 100];
    const ids = new Map<unknown, string[]>();
    for (const round of [levels, levels.toReversed()])
      for (const priority of round) ids.set(priority, [...(ids.get(priority) ?? []), await f.put(queue, { priority })]);
    assert.deepEqual(
      await taken(`${queue}:0`),
      levels.toReversed().flatMap((priority) => ids.get(priority)),
    );
  });

  test('of each task of puts is its own', async () => {
    const queue = await f.queue();
    const tasks = [1, 9, 5].map((priority) => ({ queue, endpoint: CHAT, data: {}, priority }));
    const [a, b, c] = (await f.client('POST', '/v1/queue/puts', { tasks })).json.data;
    assert.deepEqual(await taken(`${queue}:0`), [b, c, a]);
  });

  test('is changed while the task waits, up and down, and the reply is the task', async () => {
    const queue = await f.queue();
    const [a, b, c] = [await f.put(queue), await f.put(queue), await f.put(queue)];
    const answer = await change(c, 'high');
    assert.equal(answer.status, 200, answer.text);
    assert.deepEqual([answer.json.task_id, answer.json.priority, answer.json.status], [c, 10, 'waiting']);
    assert.deepEqual(answer.json, await task(c));
    assert.equal((await change(a, 0)).json.priority, 0);
    assert.deepEqual(await taken(`${queue}:0`), [c, b, a]);
  });

  test('is changed again and again, also back to what it was', async () => {
    const queue = await f.queue();
    const [a, b] = [await f.put(queue), await f.put(queue)];
    for (const priority of [9, 9, 1, 100, 5]) {
      await change(b, priority);
      assert.equal((await task(b)).priority, priority);
    }
    assert.deepEqual(await taken(`${queue}:0`), [a, b]);
  });

  test('is changed while the task is deferred, and holds when it comes to wait', async () => {
    const queue = await f.queue();
    const late = await f.put(queue, { delay_seconds: 1 });
    const answer = await change(late, 'critical');
    assert.deepEqual([answer.status, answer.json.priority], [200, 15]);
    while ((await task(late)).status === 'deferred') await f.put(queue);
    assert.equal((await f.takeOne(`${queue}:0`)).task_id, late);
  });

  test('goes with a task through release and replay', async () => {
    const queue = await f.queue();
    const id = await f.put(queue, { max_attempts: 2 });
    await change(id, 'high');
    await f.put(queue, { priority: 9 });
    for (const _ of [1, 2]) {
      assert.equal((await f.takeOne(`${queue}:0`)).task_id, id);
      await f.worker('POST', `/v1/queue/${id}/release`, { delay_seconds: 0 });
    }
    await f.client('POST', `/v1/queue/${id}/replay`);
    assert.equal((await f.takeOne(`${queue}:0`)).task_id, id);
    assert.equal((await task(id)).priority, 10);
  });

  test('of a task that runs or has ended is not changed: 409 with its state', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    assertRefused(await change(id, 9), 409, /running/);
    await f.complete(id);
    assertRefused(await change(id, 9), 409, /succeeded/);
    const cancelled = await f.put(queue);
    await f.client('POST', `/v1/queue/${cancelled}/cancel`);
    assertRefused(await change(cancelled, 9), 409, /cancelled/);
    assert.equal((await task(id)).priority, 5);
  });

  test("of another tenant's task, or of none, is a 404; the admin changes any", async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    assertRefused(await change(id, 9, f.other), 404, /unknown task/);
    for (const unknown of [NO_SUCH_TASK, 'TASK-x']) assertRefused(await change(unknown, 9), 404, /unknown task/);
    assert.equal((await task(id)).priority, 5);
    assert.equal((await change(id, 9, f.admin)).status, 200);
  });

  test('out of range is refused by name', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    for (const priority of [-1, 101, 1.5, 'urgent', '5', null, undefined, []])
      assertRefused(await change(id, priority), 400, /integer from 0 to 100|small|big/, 'priority');
    for (const priority of [-1, 101, 1.5, 'urgent', '5', []])
      assertRefused(await f.tryPut({ queue, priority }), 400, /integer from 0 to 100|small|big/, 'priority');
    assert.equal((await task(id)).priority, 5);
  });

  test('changed while takers are at it loses no task and gives none twice', async () => {
    const queue = await f.queue();
    const tasks = Array.from({ length: 300 }, () => ({ queue, endpoint: CHAT, data: {} }));
    const ids: string[] = (await f.client('POST', '/v1/queue/puts', { tasks })).json.data;
    const got: string[] = [];
    const changes = Promise.all(ids.map((id, n) => change(id, n % 101)));
    const takers = Promise.all(
      [1, 2, 3].map(async () => {
        while (got.length < ids.length)
          got.push(...(await f.take(`${queue}:0`, { size: 7 })).map((one) => one.task_id));
      }),
    );
    for (const answer of await changes) assert.ok([200, 409].includes(answer.status), answer.text);
    await takers;
    assert.deepEqual(got.sort(), ids.sort());
  });
});

describe('metadata', { concurrency: true }, () => {
  test('goes with the task to the worker and back to who asks, as it was given', async () => {
    const queue = await f.queue();
    const metadata = { customer: '4711', 'ключ "x"': 'значение\n', empty: '' };
    const id = await f.put(queue, { metadata });
    assert.deepEqual((await f.takeOne(`${queue}:0`)).metadata, metadata);
    assert.deepEqual((await task(id)).metadata, metadata);
    assert.equal('metadata' in (await task(await f.put(queue))), false);
  });

  test('is up to 16 strings, of up to 512 characters under up to 64', async () => {
    const queue = await f.queue();
    const many = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, n) => [`k${n}`, 'v']));
    for (const metadata of [{}, null, many(16), { ['k'.repeat(64)]: 'v'.repeat(512) }])
      await f.put(queue, { metadata });
    for (const [metadata, path] of [
      [many(17), 'metadata'],
      [[], 'metadata'],
      ['x', 'metadata'],
      [{ a: 1 }, 'metadata.a'],
      [{ a: null }, 'metadata.a'],
      [{ a: 'v'.repeat(513) }, 'metadata.a'],
      [{ a: 'a\0b' }, 'metadata.a'],
      [{ ['k'.repeat(65)]: 'v' }, `metadata.${'k'.repeat(65)}`],
      [{ '': 'v' }, 'metadata.'],
    ] as const)
      assertRefused(await f.tryPut({ queue, metadata }), 400, undefined, path);
  });
});
