import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createRecorder } from '../support/feed.ts';
import { type Json, startServer, until } from '../support/server.ts';
import { assertRefused, fixture } from './fixture.ts';

const f = fixture();
const psql = createRecorder(() => f.server.databaseUrl);

const listed = async (id: string): Promise<Json> =>
  (await f.worker('GET', '/v1/workers')).json.data.find((worker: Json) => worker.id === id);
const takeAs = (worker: Json, lane: string, more: object = {}) =>
  f.worker('POST', '/v1/queue/take', { queues: [lane], size: 1, worker, ...more });

describe('GET /v1/workers', () => {
  test('shows a worker with what it said of itself as soon as its first take is answered', async () => {
    const queue = await f.queue();
    const before = Date.now() - 2000;
    await takeAs({ id: 'gpu/1 ü', name: 'The first', capacities: { [`${queue}:0`]: 4 } }, `${queue}:0`);
    const { last_seen: lastSeen, first_seen: firstSeen, ...worker } = await listed('gpu/1 ü');
    assert.deepEqual(worker, {
      id: 'gpu/1 ü',
      name: 'The first',
      host: '',
      state: 'active',
      stopped_at: null,
      upstreams: null,
      capacities: { [`${queue}:0`]: 4 },
      lanes: [`${queue}:0`],
      running: 0,
      rate: 0,
      draining: false,
    });
    assert.ok(firstSeen >= before && lastSeen >= firstSeen);
  });

  test('shows what it runs, in which lanes, and how many tasks a second it ended in the last minute', async () => {
    const queue = await f.queue();
    const ids = [await f.put(queue), await f.put(queue), await f.put(queue, { level: 1 })];
    for (const lane of [`${queue}:0`, `${queue}:0`, `${queue}:1`]) await takeAs({ id: 'busy' }, lane);
    assert.deepEqual(await listed('busy').then(({ running, rate, lanes }) => ({ running, rate, lanes })), {
      running: 3,
      rate: 0,
      lanes: [`${queue}:0`, `${queue}:1`],
    });
    for (const id of ids) await f.complete(id);
    const { running, rate } = await listed('busy');
    assert.equal(running, 0);
    assert.equal(rate, 3 / 60);
  });

  test('follows a change of name and capacities, and keeps what a later take leaves out', async () => {
    const queue = await f.queue();
    await takeAs({ id: 'renamed', name: 'a', capacities: { [`${queue}:0`]: 1 } }, `${queue}:0`);
    await takeAs({ id: 'renamed', name: 'b' }, `${queue}:0`);
    await takeAs({ id: 'renamed', name: null, capacities: null }, `${queue}:0`);
    const { name, capacities } = await listed('renamed');
    assert.deepEqual([name, capacities], ['b', { [`${queue}:0`]: 1 }]);
  });

  test('counts a heartbeat as a sign of life', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await takeAs({ id: 'beating' }, `${queue}:0`);
    await listed('beating');
    await psql.query("update tasklane.worker set last_seen = now() - interval '1 hour' where worker = 'beating'");
    await f.worker('POST', '/v1/queue/heartbeat', { tasks: [{ task_id: id }] });
    assert.ok((await listed('beating')).last_seen > Date.now() - 60_000);
  });

  test('does not have who takes without saying who it is', async () => {
    const queue = await f.queue();
    const before = (await f.worker('GET', '/v1/workers')).json.data.length;
    await f.take(`${queue}:0`);
    assert.equal((await f.worker('GET', '/v1/workers')).json.data.length, before);
  });

  test('refuses a worker that can not be', async () => {
    const queue = await f.queue();
    for (const [worker, path, message] of [
      [{}, 'worker.id'],
      [{ id: '' }, 'worker.id'],
      [{ id: 'x'.repeat(201) }, 'worker.id'],
      [{ id: 'x', name: 'x'.repeat(201) }, 'worker.name'],
      [
        { id: 'x', capacities: { nowhere: 1 } },
        'worker.capacities.nowhere',
        /^worker.capacities.nowhere: write queue:level/,
      ],
      [{ id: 'x', capacities: { 'q:0': -1 } }, 'worker.capacities.q:0'],
    ] as const)
      assertRefused(await takeAs(worker, `${queue}:0`), 400, message, path);
  });

  test('forgets who was not seen for an hour', async () => {
    const queue = await f.queue();
    for (const id of ['old', 'young']) await takeAs({ id }, `${queue}:0`);
    await psql.query("update tasklane.worker set last_seen = now() - interval '61 minutes' where worker = 'old'");
    await psql.query('select tasklane.forget_workers()');
    const left = await psql.query("select worker from tasklane.worker where worker in ('old', 'young')");
    assert.deepEqual(left, [{ worker: 'young' }]);
  });
});

describe('a worker that is told to drain', () => {
  test('gets nothing more, and is told so, until it may go on', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await takeAs({ id: 'a/b' }, `${queue}:9`);
    const told = await f.admin('POST', `/v1/workers/${encodeURIComponent('a/b')}/drain`);
    assert.deepEqual([told.status, told.json], [200, 'a/b']);
    for (const wait of [0, 30]) {
      const answer = await takeAs({ id: 'a/b' }, `${queue}:0`, { wait });
      assert.deepEqual([answer.status, answer.text, answer.headers.get('x-tasklane-drain')], [200, '{}', '1']);
    }
    assert.equal((await listed('a/b')).draining, true);
    assert.equal(await f.status(id), 'waiting');
    assert.equal((await f.admin('POST', `/v1/workers/${encodeURIComponent('a/b')}/resume`)).status, 200);
    const answer = await takeAs({ id: 'a/b' }, `${queue}:0`);
    assert.equal(answer.json[`${queue}:0`][0].task_id, id);
    assert.equal(answer.headers.get('x-tasklane-drain'), null);
  });

  test('has its long polls ended at once, on every server, and others go on', async () => {
    const queue = await f.queue();
    const second = await startServer({ url: f.server.databaseUrl });
    try {
      const body = { queues: [`${queue}:0`], size: 1, wait: 60 };
      const polls = [f.server, second].map((server) =>
        server.request('POST', '/v1/queue/take', { ...body, worker: { id: 'everywhere' } }),
      );
      const other = second.request('POST', '/v1/queue/take', { ...body, worker: { id: 'another' } });
      for (const id of ['everywhere', 'another']) await until(async () => listed(id));
      await until(
        async () =>
          (
            await psql.query(
              'select count(*)::int as live from tasklane.instance where seen_at > now() - interval $$15 s$$',
            )
          )[0].live === 2,
      );
      assert.equal((await f.admin('POST', '/v1/workers/everywhere/drain')).status, 200);
      for (const poll of await Promise.all(polls))
        assert.deepEqual([poll.text, poll.headers.get('x-tasklane-drain')], ['{}', '1']);
      const id = await f.put(queue);
      assert.equal((await other).json[`${queue}:0`][0].task_id, id);
      assert.equal(await f.status(id), 'running');
    } finally {
      await second.stop();
    }
  });

  test('keeps what it has, and may end it', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await takeAs({ id: 'ending' }, `${queue}:0`);
    await f.admin('POST', '/v1/workers/ending/drain');
    assert.equal((await f.complete(id)).status, 200);
  });

  test('may be named: then all of that name that live drain, and no others', async () => {
    const queue = await f.queue();
    for (const id of ['one', 'two', 'gone', 'lost']) await takeAs({ id, name: 'gpu-1' }, `${queue}:0`);
    await f.worker('POST', '/v1/queue/heartbeat', { tasks: [], worker: { id: 'gone', stopping: true } });
    await listed('lost');
    await psql.query("update tasklane.worker set last_seen = now() - interval '46 s' where worker = 'lost'");
    const told = await f.admin('POST', '/v1/workers/gpu-1/drain');
    assert.deepEqual([told.status, told.json], [200, 'gpu-1']);
    const states = async () =>
      (await psql.query("select worker, state from tasklane.worker_status where name = 'gpu-1' order by 1")).map(
        ({ worker, state }) => `${worker} ${state}`,
      );
    assert.deepEqual(await states(), ['gone stopped', 'lost lost', 'one draining', 'two draining']);
    const answer = await takeAs({ id: 'two' }, `${queue}:0`, { wait: 30 });
    assert.deepEqual([answer.text, answer.headers.get('x-tasklane-drain')], ['{}', '1']);
    assert.equal((await f.admin('POST', '/v1/workers/gpu-1/resume')).status, 200);
    assert.deepEqual(await states(), ['gone stopped', 'lost lost', 'one active', 'two active']);
  });

  test('is not found by a name whose workers are stopped or lost', async () => {
    const queue = await f.queue();
    await takeAs({ id: 'over-1', name: 'over' }, `${queue}:0`);
    await f.worker('POST', '/v1/queue/heartbeat', { tasks: [], worker: { id: 'over-1', stopping: true } });
    const refused = await f.admin('POST', '/v1/workers/over/drain');
    assertRefused(refused, 404, /^unknown worker "over": those of this name are stopped or lost$/);
    assert.equal((await f.admin('POST', '/v1/workers/over-1/drain')).status, 200, 'its id does');
  });

  test('must have been seen', async () => {
    for (const verb of ['drain', 'resume']) assertRefused(await f.admin('POST', `/v1/workers/nobody/${verb}`), 404);
  });
});
