import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { assertRefused, CHAT, fixture } from './fixture.ts';

const f = fixture();
const get = async (id: string) => (await f.client('GET', `/v1/queue/${id}`)).json;

describe('a task for later', () => {
  test('is deferred until its time, is counted so, and is taken then without anybody asking again', async () => {
    const queue = await f.queue();
    const poll = f.takeOne(`${queue}:0`, { wait: 30 });
    const id = await f.put(queue, { delay_seconds: 1 });
    const { status, run_at: runAt, start_time: put } = await get(id);
    assert.equal(status, 'deferred');
    assert.ok(Math.abs(runAt - put - 1000) <= 1, `${runAt - put} ms`);
    const stats = (await f.worker('GET', `/v1/queue/${queue}:0/stats`)).json;
    assert.deepEqual([stats.waiting, stats.deferred], [0, 1]);
    assert.equal((await poll).task_id, id);
    assert.ok((await get(id)).running_time >= runAt);
    assert.equal((await get(id)).run_at, undefined);
  });

  test('takes its time as epoch milliseconds or ISO 8601, with an offset or in UTC', async () => {
    const queue = await f.queue();
    const at = Math.floor(Date.now() / 1000) * 1000 + 3_600_000;
    const iso = new Date(at).toISOString();
    const east = `${new Date(at + 2 * 3_600_000).toISOString().slice(0, -1)}+02:00`;
    for (const runAt of [at, iso, iso.slice(0, -1), east])
      assert.equal((await get(await f.put(queue, { run_at: runAt }))).run_at, at, String(runAt));
  });

  test('runs at once when its time is past, or it is not put off', async () => {
    const queue = await f.queue();
    for (const more of [{ run_at: Date.now() - 60_000 }, { delay_seconds: 0 }, { run_at: null, delay_seconds: null }])
      assert.equal(await f.status(await f.put(queue, more)), 'waiting');
  });

  test('has its timeout from its time on; one that a client waits for, from its put', async () => {
    const queue = await f.queue();
    const task = await get(await f.put(queue, { delay_seconds: 100, timeout: 50 }));
    assert.ok(Math.abs(task.expire_time - task.start_time - 150_000) <= 1);
    for (const mode of ['blocking', 'streaming'])
      assertRefused(await f.tryPut({ queue, response_mode: mode, delay_seconds: 5, timeout: 5 }), 400, /run_at/);
    const asked = f.tryPut({ queue, response_mode: 'blocking', delay_seconds: 0.5, timeout: 30 });
    const { task_id: id, expire_time: until, start_time: put } = await f.takeOne(`${queue}:0`);
    assert.equal(until - put, 30_000);
    await f.complete(id, 'late');
    assert.equal((await asked).text, '"late"');
  });

  test('can be cancelled and listed, and keeps its queue from being deleted', async () => {
    const queue = await f.queue();
    const id = await f.put(queue, { delay_seconds: 3600 });
    const { data } = (await f.client('GET', `/v1/tasks?queue=${queue}&status=deferred`)).json;
    assert.deepEqual(
      data.map((task: { task_id: string }) => task.task_id),
      [id],
    );
    assertRefused(await f.worker('DELETE', `/v1/queue/${queue}`), 409);
    assert.equal((await f.client('POST', `/v1/queue/${id}/cancel`)).status, 202);
    assert.equal(await f.status(id), 'cancelled');
  });

  test('is put so by puts, each with its own', async () => {
    const queue = await f.queue();
    const tasks = [{}, { delay_seconds: 3600 }].map((more) => ({ queue, endpoint: CHAT, data: {}, ...more }));
    const { data } = (await f.client('POST', '/v1/queue/puts', { tasks })).json;
    assert.deepEqual(await Promise.all(data.map(f.status)), ['waiting', 'deferred']);
  });

  test('at a time that can not be is refused by field', async () => {
    const queue = await f.queue();
    const year = 366 * 86_400;
    for (const [more, path] of [
      [{ run_at: 'tomorrow' }, 'run_at'],
      [{ run_at: '2026-02-30T00:00:00Z' }, 'run_at'],
      [{ run_at: -1 }, 'run_at'],
      [{ run_at: 1.5 }, 'run_at'],
      [{ delay_seconds: -1 }, 'delay_seconds'],
      [{ delay_seconds: year + 1 }, 'delay_seconds'],
      [{ delay_seconds: '5' }, 'delay_seconds'],
      [{ delay_seconds: 1, run_at: Date.now() }, 'run_at'],
    ] as const)
      assertRefused(await f.tryPut({ queue, ...more }), 400, undefined, path);
    assertRefused(await f.tryPut({ queue, run_at: Date.now() + (year + 60) * 1000 }), 400, /366 days/);
  });
});

test('metadata goes to the worker and stays with the task; too much, or anything but texts, is refused', async () => {
  const queue = await f.queue();
  const metadata = { user: 'ü', 'trace-id': '7' };
  const id = await f.put(queue, { metadata });
  assert.deepEqual((await f.takeOne(`${queue}:0`)).metadata, metadata);
  assert.deepEqual((await get(id)).metadata, metadata);
  const many = Object.fromEntries(Array.from({ length: 17 }, (_, n) => [`k${n}`, 'v']));
  for (const bad of [many, { n: 1 }, { ['k'.repeat(65)]: 'v' }, { k: 'v'.repeat(513) }, 'text', { '': 'v' }])
    assertRefused(await f.tryPut({ queue, metadata: bad }), 400, /metadata/);
});
