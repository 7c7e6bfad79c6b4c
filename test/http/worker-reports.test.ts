import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createRecorder } from '../support/feed.ts';
import { type Json, until } from '../support/server.ts';
import { assertRefused, fixture } from './fixture.ts';

const f = fixture();
const psql = createRecorder(() => f.server.databaseUrl);

const SINCE = 1_764_500_000_000;
const upstream = (more: Json = {}) => ({
  url: 'http://gpu:8000',
  state: 'healthy',
  since: SINCE,
  in_flight: 1,
  limit: 4,
  ...more,
});
const failing = (more: Json = {}) =>
  upstream({ state: 'failing', status: 500, message: 'CUDA out of memory', ...more });

const takeAs = (worker: Json, lane: string, more: object = {}) =>
  f.worker('POST', '/v1/queue/take', { queues: [lane], size: 1, worker, ...more });
const beat = (worker: Json, tasks: Json[] = []) => f.worker('POST', '/v1/queue/heartbeat', { tasks, worker });
const listed = async (id: string): Promise<Json> =>
  (await f.worker('GET', '/v1/workers')).json.data.find((worker: Json) => worker.id === id);
/** As the database has it, without asking a server, which would write what it still holds. */
const stored = async (id: string): Promise<Json> =>
  (
    await psql.query(`select worker, state, upstreams, stopped_at from tasklane.worker_status where worker = '${id}'`)
  )[0];

describe('what a worker says of its upstreams', () => {
  test('is shown, by takes and by heartbeats, and kept where a later word leaves it out', async () => {
    const lane = `${await f.queue()}:0`;
    await takeAs({ id: 'tells', host: 'box-1', upstreams: [failing({ queues: ['a'] })] }, lane);
    const { host, upstreams, state } = await listed('tells');
    assert.deepEqual([host, state, upstreams], ['box-1', 'active', [failing({ queues: ['a'] })]]);
    const told = await beat({ id: 'tells', upstreams: [upstream()] });
    assert.deepEqual([told.status, told.json], [200, { extended: [], lost: [], cancelled: [] }]);
    assert.deepEqual((await listed('tells')).upstreams, [upstream()]);
    await takeAs({ id: 'tells' }, lane);
    assert.deepEqual((await listed('tells')).upstreams, [upstream()]);
    await beat({ id: 'tells', upstreams: [] });
    assert.deepEqual((await listed('tells')).upstreams, []);
  });

  test('is written at once when a state changes, and at most once in a while when only numbers do', async () => {
    const lane = `${await f.queue()}:0`;
    await takeAs({ id: 'busy', upstreams: [upstream()] }, lane);
    const writes = async () =>
      Number((await psql.query("select xmin::text::bigint as at from tasklane.worker where worker = 'busy'"))[0].at);
    const seen = new Set<number>([await writes()]);
    for (let calls = 1; calls <= 40; calls++) {
      await takeAs({ id: 'busy', upstreams: [upstream({ in_flight: calls })] }, lane);
      seen.add(await writes());
    }
    assert.ok(seen.size <= 3, `${seen.size} versions of one row for 40 takes`);
    await takeAs({ id: 'busy', upstreams: [failing()] }, lane);
    await until(async () => (await stored('busy')).upstreams[0].state === 'failing');
    await beat({ id: 'busy', upstreams: [failing({ in_flight: 3 })] });
    await until(async () => (await stored('busy')).upstreams[0].in_flight === 3);
  });

  test('is cleaned and cut where it can not be kept as it is', async () => {
    const lane = `${await f.queue()}:0`;
    const said = [
      failing({ message: `a\u0000b\ud83d${'x'.repeat(100_000)}` }),
      upstream({ url: `http://user:secret@gpu/\u0000?api_key=sk-1${'y'.repeat(5000)}`, queues: null, status: null }),
      ...Array.from({ length: 98 }, (_, n) => upstream({ url: `http://gpu-${n}` })),
    ];
    assert.equal((await takeAs({ id: 'odd', host: 'h\u0000\udc00', upstreams: said }, lane)).status, 200);
    const { host, upstreams } = await listed('odd');
    assert.equal(host, 'h\ufffd\ufffd');
    assert.equal(upstreams.length, 64);
    assert.equal(upstreams[0].message, `a\ufffdb\ufffd${'x'.repeat(508)}`);
    assert.equal(upstreams[1].url, 'http://gpu/\ufffd');
  });

  test('is refused with the name of the field where it can not be meant', async () => {
    const lane = `${await f.queue()}:0`;
    for (const [given, path] of [
      ['none', 'worker.upstreams'],
      [['none'], 'worker.upstreams.0'],
      [[{}], 'worker.upstreams.0.url'],
      [[upstream(), upstream({ state: 'sleeping' })], 'worker.upstreams.1.state'],
      [[upstream({ since: -1 })], 'worker.upstreams.0.since'],
      [[upstream({ since: 1e300 })], 'worker.upstreams.0.since'],
      [[upstream({ status: 99 })], 'worker.upstreams.0.status'],
      [[upstream({ message: 5 })], 'worker.upstreams.0.message'],
      [[upstream({ in_flight: -1 })], 'worker.upstreams.0.in_flight'],
      [[upstream({ limit: null })], 'worker.upstreams.0.limit'],
      [[upstream({ queues: [5] })], 'worker.upstreams.0.queues.0'],
    ] as const) {
      assertRefused(await takeAs({ id: 'bad', upstreams: given }, lane), 400, undefined, path);
      assertRefused(await beat({ id: 'bad', upstreams: given }), 400, undefined, path);
    }
    for (const [worker, path] of [
      [{ id: 'bad', stopping: 'yes' }, 'worker.stopping'],
      [{ id: 'bad', host: 5 }, 'worker.host'],
    ] as const)
      assertRefused(await takeAs(worker, lane), 400, undefined, path);
    assertRefused(await f.worker('POST', '/v1/queue/heartbeat', { tasks: [] }), 400, /who the worker is/, 'tasks');
    assert.equal(await listed('bad'), undefined);
  });
});

describe('the state of a worker', () => {
  test('is stopped when it says good-bye, gets nothing by that, and is active when it asks again', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await takeAs({ id: 'leaving' }, `${queue}:5`);
    await beat({ id: 'leaving', stopping: true });
    const { state, stopped_at: stoppedAt } = await listed('leaving');
    assert.equal(state, 'stopped');
    assert.ok(Math.abs(stoppedAt - Date.now()) < 60_000);
    await beat({ id: 'leaving' });
    assert.equal((await listed('leaving')).state, 'stopped', 'a heartbeat for what it still has');
    assert.equal((await takeAs({ id: 'leaving', stopping: true }, `${queue}:0`)).text, '{}');
    assert.equal((await listed('leaving')).stopped_at, stoppedAt);
    const taken = await takeAs({ id: 'leaving' }, `${queue}:0`);
    assert.equal(taken.json[`${queue}:0`][0].task_id, id);
    assert.deepEqual([(await listed('leaving')).state, (await listed('leaving')).stopped_at], ['active', null]);
  });

  test('is what its last word was, whichever server it came to', async () => {
    const lane = `${await f.queue()}:0`;
    const second = await f.second();
    await takeAs({ id: 'moves' }, lane);
    await second.request('POST', '/v1/queue/heartbeat', { tasks: [], worker: { id: 'moves', stopping: true } });
    assert.equal((await listed('moves')).state, 'stopped', 'the take came before');
    await takeAs({ id: 'moves' }, lane);
    assert.equal((await listed('moves')).state, 'active', 'the take came after');
  });

  test('is lost when it has not been seen for 45 seconds', async () => {
    const lane = `${await f.queue()}:0`;
    await takeAs({ id: 'silent' }, lane);
    await listed('silent');
    for (const [ago, state] of [
      [44, 'active'],
      [46, 'lost'],
    ] as const) {
      await psql.query(`update tasklane.worker set last_seen = now() - interval '${ago} s' where worker = 'silent'`);
      assert.equal((await listed('silent')).state, state);
    }
    await takeAs({ id: 'silent' }, lane);
    assert.equal((await listed('silent')).state, 'active');
  });
});
