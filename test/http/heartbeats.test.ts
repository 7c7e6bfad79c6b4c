import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import pg from 'pg';
import type { Json, Server } from '../support/server.ts';
import { assertRefused, CHAT, fixture, NO_SUCH_TASK } from './fixture.ts';

const f = fixture();
const HEARTBEAT = '/v1/queue/heartbeat';
const SOON_MS = 5000;

/** A heartbeat that waits, at a server. */
function waiting(tasks: Json[], more: object = {}, at: Server = f.server) {
  const began = Date.now();
  const named = tasks.map(({ task_id, attempt }) => ({ task_id, attempt }));
  let answered = false;
  const answer = at
    .request('POST', HEARTBEAT, { tasks: named, wait: 30, ...more }, { key: f.keys.worker })
    .finally(() => {
      answered = true;
    });
  return {
    get isAnswered() {
      return answered;
    },
    /** What it says, soon. */
    async told(): Promise<Json> {
      const { status, json, text } = await answer;
      assert.equal(status, 200, text);
      assert.ok(Date.now() - began < SOON_MS, `told after ${Date.now() - began} ms`);
      return json;
    },
  };
}

describe('a heartbeat that waits', { concurrency: true }, () => {
  const running = async (more: object = {}, put: object = {}) => {
    const queue = await f.queue();
    await f.put(queue, put);
    return { queue, task: await f.takeOne(`${queue}:0`, more) };
  };

  test('hears of a cancel, at whichever server that is', async () => {
    for (const at of [f.server, await f.second()])
      for (const other of [f.server, await f.second()]) {
        const { task } = await running();
        const heartbeat = waiting([task], {}, at);
        const cancel = await other.request('POST', `/v1/queue/${task.task_id}/cancel`);
        assert.equal(cancel.status, 202);
        assert.deepEqual(await heartbeat.told(), { extended: [], lost: [], cancelled: [task.task_id] });
      }
  });

  test('hears of a client that hung up, and of a deadline', async () => {
    const queue = await f.queue();
    const gone = new AbortController();
    const body = { queue, endpoint: CHAT, data: {}, response_mode: 'blocking' };
    const second = await f.second();
    const asked = second.request('POST', '/v1/queue/put', body, { signal: gone.signal }).catch(() => undefined);
    const left = await f.takeOne(`${queue}:0`);
    const late = f.client('POST', '/v1/queue/put', { ...body, timeout: 1 });
    const expired = await f.takeOne(`${queue}:0`);
    const [one, two] = [waiting([left]), waiting([expired])];
    gone.abort();
    await asked;
    assert.deepEqual((await one.told()).cancelled, [left.task_id]);
    assert.deepEqual((await two.told()).lost, [expired.task_id]);
    assert.equal((await late).status, 408);
  });

  test('hears of a lapse, and of a cancel in psql', async () => {
    const { queue, task: lapsed } = await running();
    const { task: cancelled } = await running();
    const [one, two] = [waiting([lapsed]), waiting([cancelled])];
    const psql = new pg.Client({ connectionString: f.server.databaseUrl });
    await psql.connect();
    await psql.query(
      `update tasklane.running set lease_until = now(), lease_seconds = 1
       where queue_id = (select queue_id from tasklane.queue where queue = $1)`,
      [queue],
    );
    await psql.query('select tasklane.cancel($1)', [cancelled.task_id]);
    await psql.end();
    assert.deepEqual((await one.told()).lost, [lapsed.task_id]);
    assert.deepEqual((await two.told()).cancelled, [cancelled.task_id]);
  });

  test('hears of what its worker took meanwhile, and of no other', async () => {
    const worker = { id: 'taker' };
    const heartbeat = waiting([], { worker });
    const { task: own } = await running({ worker });
    const { task: other } = await running({ worker: { id: 'other' } });
    await f.client('POST', `/v1/queue/${other.task_id}/cancel`);
    await f.client('POST', `/v1/queue/${own.task_id}/cancel`);
    assert.deepEqual(await heartbeat.told(), { extended: [], lost: [], cancelled: [own.task_id] });
  });

  test('does not wait where a task is lost already, but for what was answered', async () => {
    const { task } = await running();
    const { task: answered } = await running();
    await f.complete(answered.task_id);
    const bad = waiting([task, { task_id: NO_SUCH_TASK }]);
    assert.deepEqual(await bad.told(), { extended: [task.task_id], lost: [NO_SUCH_TASK], cancelled: [] });
    const heartbeat = waiting([task, answered]);
    // It waits: what comes later is in it.
    await f.complete((await running()).task.task_id);
    assert.equal(heartbeat.isAnswered, false);
    await f.client('POST', `/v1/queue/${task.task_id}/cancel`);
    const told = await heartbeat.told();
    assert.deepEqual(told, { extended: [], lost: [answered.task_id], cancelled: [task.task_id] });
  });

  test('comes back after a third of the shortest lease, so that leases hold', async () => {
    const { task: short } = await running({ lease_seconds: 3 });
    const { task: long } = await running({ lease_seconds: 60 });
    const heartbeat = waiting([long, short]);
    assert.deepEqual(await heartbeat.told(), { extended: [long.task_id, short.task_id], lost: [], cancelled: [] });
    assert.equal(await f.status(short.task_id), 'running');
  });

  test('is refused by field', async () => {
    const tasks = [{ task_id: NO_SUCH_TASK }];
    const bad: [object, string][] = [
      [{ tasks, wait: -1 }, 'wait'],
      [{ tasks, wait: 31 }, 'wait'],
      [{ tasks, wait: '5' }, 'wait'],
      [{ tasks, worker: {} }, 'worker.id'],
    ];
    for (const [body, path] of bad) assertRefused(await f.worker('POST', HEARTBEAT, body), 400, undefined, path);
  });
});

test('a server that stops ends heartbeats that wait', async () => {
  const queue = await f.queue();
  await f.put(queue);
  const task = await f.takeOne(`${queue}:0`);
  const second = await f.second();
  const heartbeat = waiting([task], {}, second);
  // The heartbeat has come before what is asked after it.
  await second.request('GET', '/v1/workers');
  const stopped = second.stop();
  assert.deepEqual((await heartbeat.told()).extended, [task.task_id]);
  assert.equal((await stopped).code, 0);
});
