import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Json } from '../support/server.ts';
import { assertRefused, CHAT, fixture, NO_SUCH_TASK } from './fixture.ts';

const f = fixture();

const task = async (id: string): Promise<Json> => (await f.admin('GET', `/v1/queue/${id}`)).json;
const listed = async (query: string, as = f.client): Promise<string[]> => {
  const answer = await as('GET', `/v1/dead?${query}`);
  assert.equal(answer.status, 200, answer.text);
  return answer.json.data.map((one: Json) => one.task_id);
};
/** A task that has just died of its only attempt. */
async function die(queue: string, more: object = {}, as = f.client): Promise<string> {
  const put = await as('POST', '/v1/queue/put', { queue, endpoint: CHAT, data: {}, max_attempts: 1, ...more });
  await kill(queue, put.json.data);
  return put.json.data;
}
async function kill(queue: string, id: string): Promise<void> {
  assert.equal((await f.takeOne(`${queue}:0`)).task_id, id);
  await f.worker('POST', `/v1/queue/${id}/release`, { reason: 'poison' });
  assert.equal((await task(id)).status, 'dead');
}

describe('dead tasks', { concurrency: true }, () => {
  test('are listed newest first, a page at a time, each queue and tenant its own', async () => {
    const [queue, other] = [await f.queue(), await f.queue()];
    const ids = [await die(queue), await die(queue), await die(queue)].reverse();
    const elsewhere = await die(other);
    const foreign = await die(queue, {}, f.other);
    await f.put(queue);
    assert.deepEqual(await listed(`queue=${queue}`), ids);
    assert.deepEqual(await listed(`queue=${queue}`, f.other), [foreign]);
    assert.deepEqual(await listed(`queue=${queue}`, f.admin), [foreign, ...ids]);
    assert.ok((await listed('limit=1000')).includes(elsewhere));
    assert.ok(!(await listed('limit=1000')).includes(foreign));
    const page = (await f.client('GET', `/v1/dead?queue=${queue}&limit=2`)).json;
    assert.deepEqual([page.data.map((one: Json) => one.task_id), page.has_more], [ids.slice(0, 2), true]);
    const rest = (await f.client('GET', `/v1/dead?queue=${queue}&limit=2&after=${ids[1]}`)).json;
    assert.deepEqual([rest.data.map((one: Json) => one.task_id), rest.has_more], [ids.slice(2), false]);
    assert.deepEqual([rest.data[0].status, rest.data[0].result.status_code], ['dead', 502]);
  });

  test('get a new life by a replay: attempt 1, as much time as they had, and their history stays', async () => {
    const queue = await f.queue();
    const id = await die(queue, { timeout: 1000, metadata: { a: 'b' }, data: { x: 1 }, priority: 9 });
    const first = await task(id);
    const answer = await f.client('POST', `/v1/queue/${id}/replay`);
    assert.deepEqual([answer.status, answer.text], [200, `"${id}"`]);
    const reborn = await task(id);
    assert.deepEqual([reborn.status, reborn.attempt, reborn.result, reborn.priority], ['waiting', 0, undefined, 9]);
    assert.deepEqual(reborn.attempts, first.attempts);
    assert.ok(reborn.expire_time - first.completed_time >= 1000 * 1000, 'its time begins again');
    assert.ok(reborn.expire_time - Date.now() <= 1001 * 1000, 'and is no longer than it was');
    assert.deepEqual(await listed(`queue=${queue}`), []);

    const taken = await f.takeOne(`${queue}:0`, { worker: { id: 'healer' } });
    assert.deepEqual([taken.task_id, taken.attempt, taken.data, taken.metadata], [id, 1, { x: 1 }, { a: 'b' }]);
    await f.complete(id, 'healed', { attempt: 1 });
    const { status, result, attempts } = await task(id);
    assert.deepEqual([status, result.body], ['succeeded', 'healed']);
    assert.deepEqual(
      attempts.map((one: Json) => [one.attempt, one.worker, one.reason]),
      [
        [1, null, 'poison'],
        [1, 'healer', 'succeeded'],
      ],
    );
  });

  test('may die again, and be replayed again, with all their attempts anew each time', async () => {
    const queue = await f.queue();
    const id = await f.put(queue, { max_attempts: 2 });
    for (let life = 1; life <= 3; life++) {
      for (const attempt of [1, 2]) {
        assert.equal((await f.takeOne(`${queue}:0`)).attempt, attempt);
        await f.worker('POST', `/v1/queue/${id}/release`, { delay_seconds: 0, attempt });
      }
      assert.equal((await task(id)).status, 'dead');
      assert.equal((await task(id)).attempts.length, 2 * life);
      await f.client('POST', `/v1/queue/${id}/replay`);
    }
  });

  test('are the only ones that are replayed: others are a 409 that names their state, unknown and foreign ones a 404', async () => {
    const queue = await f.queue();
    const replay = (id: string, as = f.client) => as('POST', `/v1/queue/${id}/replay`);
    const waiting = await f.put(queue);
    assertRefused(await replay(waiting), 409, /waiting/);
    await f.takeOne(`${queue}:0`);
    assertRefused(await replay(waiting), 409, /running/);
    await f.complete(waiting);
    assertRefused(await replay(waiting), 409, /succeeded/);
    for (const id of [NO_SUCH_TASK, 'nonsense']) assertRefused(await replay(id), 404, /unknown task/);
    const id = await die(queue);
    assertRefused(await replay(id, f.other), 404, /unknown task/);
    assert.equal((await task(id)).status, 'dead');
    const answers = await Promise.all(Array.from({ length: 8 }, () => replay(id)));
    assert.deepEqual(answers.map((answer) => answer.status).sort(), [200, ...Array(7).fill(409)]);
  });

  test('are replayed many at once: the oldest of a queue first, as many as asked for, and only those of the tenant', async () => {
    const [queue, other] = [await f.queue(), await f.queue()];
    const ids = [await die(queue), await die(queue), await die(queue)] as const;
    const foreign = await die(queue, {}, f.other);
    const elsewhere = await die(other);
    const replay = async (body: object, as = f.client) => (await as('POST', '/v1/dead/replay', body)).json;
    assert.deepEqual(await replay({ queue, limit: 2 }), { replayed: 2 });
    assert.deepEqual(await listed(`queue=${queue}`, f.admin), [foreign, ids[2]]);
    assert.deepEqual(await replay({ queue }), { replayed: 1 });
    assert.deepEqual(await replay({ queue }), { replayed: 0 });
    for (const id of ids) assert.equal((await f.takeOne(`${queue}:0`)).task_id, id);
    assert.equal((await task(foreign)).status, 'dead');
    assert.equal((await task(elsewhere)).status, 'dead');
    assert.deepEqual(await replay({ queue }, f.admin), { replayed: 1 });
    assert.equal((await task(foreign)).status, 'waiting');
  });

  test('are removed for good by a purge: of a queue, and only those of the tenant', async () => {
    const [queue, other] = [await f.queue(), await f.queue()];
    const mine = [await die(queue), await die(queue)];
    const foreign = await die(queue, {}, f.other);
    const elsewhere = await die(other);
    const alive = await f.put(queue);
    const purge = (as = f.client) => as('DELETE', `/v1/dead?queue=${queue}`);
    const answer = await purge();
    assert.deepEqual([answer.status, answer.text], [204, '']);
    for (const id of mine) assertRefused(await f.admin('GET', `/v1/queue/${id}`), 404, /unknown task/);
    assert.deepEqual(await listed(`queue=${queue}`, f.admin), [foreign]);
    assertRefused(await f.client('DELETE', '/v1/dead'), 400, undefined, 'queue');
    assert.deepEqual([(await task(elsewhere)).status, (await task(alive)).status], ['dead', 'waiting']);
    await purge(f.admin);
    assertRefused(await f.admin('GET', `/v1/queue/${foreign}`), 404);
    assert.equal((await task(alive)).status, 'waiting');
  });

  test('of an unknown queue are a 404, and what is out of range is named', async () => {
    assertRefused(await f.client('GET', '/v1/dead?queue=nowhere'), 404, /unknown queue/);
    assertRefused(await f.client('DELETE', '/v1/dead?queue=nowhere'), 404, /unknown queue/);
    assertRefused(await f.client('POST', '/v1/dead/replay', { queue: 'nowhere' }), 404, /unknown queue/);
    for (const [query, path] of [
      ['limit=0', 'limit'],
      ['limit=1001', 'limit'],
      ['limit=x', 'limit'],
      ['after=x', 'after'],
      ['queue=a%20b', 'queue'],
    ] as const)
      assertRefused(await f.client('GET', `/v1/dead?${query}`), 400, undefined, path);
    assertRefused(await f.client('DELETE', '/v1/dead?queue=a%20b'), 400, undefined, 'queue');
    for (const [body, path] of [
      [{ queue: 'q', limit: 0 }, 'limit'],
      [{ queue: 'q', limit: 1_000_001 }, 'limit'],
      [{ queue: 7 }, 'queue'],
      [{ queues: 'q' }, 'queue'],
    ] as const)
      assertRefused(await f.client('POST', '/v1/dead/replay', body), 400, undefined, path);
  });
});
