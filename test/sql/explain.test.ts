import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { batchesOf } from '../support/batches.ts';
import { code, type Session, testDatabase } from '../support/sql.ts';

const database = await testDatabase();
const db: Session = await database.open();
const batches = batchesOf(db);
const MINUTE = 60_000;

type Why = { status: string; ahead: string | null; eta_seconds: number | null; reason: string; rule: string };

let queue: string;
let lane: string;
let id: bigint;
let printed: string;
beforeEach(async () => {
  await db.run('delete from tasklane.worker');
  queue = await db.register(database.name());
  lane = `${queue}:0`;
  ({ id, task_id: printed } = await db.putOne({ queue }));
});

const why = async (task = id): Promise<Why> => {
  const [row] = await db.rows<Why>('select * from tasklane.explain_task($1::bigint)', [task]);
  assert.ok(row);
  return row;
};
const assertWhy = async (rule: string, reason: RegExp | string, task = id): Promise<Why> => {
  const told = await why(task);
  if (typeof reason === 'string') assert.equal(told.reason, reason);
  else assert.match(told.reason, reason);
  assert.equal(told.rule, rule);
  return told;
};
const setQueue = (settings: object) => db.run('select tasklane.set_queue($1, $2)', [queue, settings]);

/** A worker that takes from the lane, with upstreams as it tells of them. */
const see = (worker: string, upstreams: object[] | null = null, more: { name?: string; stopping?: boolean } = {}) =>
  db.run(
    'select tasklane.see_workers(array[$1], array[$2], array[null], array[$3], array[null], array[$4], array[$5::boolean])',
    [worker, more.name ?? null, JSON.stringify([lane]), upstreams && JSON.stringify(upstreams), more.stopping ?? null],
  );
const unseen = (worker: string, seconds: number) =>
  db.run('update tasklane.worker set last_seen = now() - make_interval(secs => $2) where worker = $1', [
    worker,
    seconds,
  ]);
const upstream = (state: string, more: object = {}) => ({
  url: `http://${state}`,
  state,
  since: Date.now() - 5 * MINUTE,
  in_flight: 0,
  limit: 4,
  ...more,
});
const WELL = upstream('healthy');
const OUT_OF_MEMORY = upstream('failing', { status: 500, message: 'CUDA out of\nmemory' });
const CLOCK = String.raw`\d\d:\d\d UTC`;

describe('a waiting task', () => {
  test('has no worker', async () => {
    const { ahead, status, eta_seconds: eta } = await assertWhy('no_worker', `no worker takes from ${lane}`);
    assert.deepEqual([status, ahead, eta], ['waiting', 0, null]);
    await see('stops', null, { stopping: true });
    await assertWhy('no_worker', `no worker takes from ${lane}: stops has stopped`);
    await see('drains', null, { name: 'gpu-1' });
    await db.run("select tasklane.set_draining('drains', true)");
    await assertWhy('no_worker', `no worker takes from ${lane}: gpu-1 drains`);
  });

  test('is taken by a worker that does not say who it is, which shows while that runs another', async () => {
    const other = await db.putOne({ queue });
    await db.takeOne([lane]);
    await assertWhy('behind', /^it is next in /, other.id);
  });

  test('has a worker that is not seen any more', async () => {
    await see('gone', null, { name: 'gpu-1' });
    await unseen('gone', 40);
    await assertWhy('worker_lost', `its worker gpu-1 has not been seen for 40s, and no other takes from ${lane}`);
    await see('there');
    await assertWhy('behind', `it is next in ${lane}, whose workers are busy`);
  });

  test('has workers whose upstreams fail, refuse or are away, all of them that serve its queue', async () => {
    await see('w', [OUT_OF_MEMORY], { name: 'gpu-1' });
    await assertWhy(
      'upstream_failing',
      new RegExp(`^the upstream http://failing of worker gpu-1 answers 500 "CUDA out of memory" since ${CLOCK}$`),
    );
    await see('w', [upstream('refusing', { status: 429, message: 'too many requests' })]);
    await assertWhy(
      'upstream_refusing',
      /^the upstream http:\/\/refusing of worker gpu-1 answers 429 "too many requests" since /,
    );
    await see('w', [upstream('refusing'), upstream('away', { message: 'connect ECONNREFUSED' })]);
    await assertWhy('upstream_failing', /http:\/\/away of worker gpu-1 does not answer "connect ECONNREFUSED" since /);
    await see('w', [OUT_OF_MEMORY, WELL]);
    await assertWhy('behind', /busy$/);
    await see('w', [OUT_OF_MEMORY, { ...WELL, queues: ['another'] }]);
    await assertWhy('upstream_failing', /CUDA/);
    await see('w', [
      { ...OUT_OF_MEMORY, queues: ['another'] },
      { ...WELL, queues: [queue] },
    ]);
    await assertWhy('behind', /busy$/);
    await see('w', [OUT_OF_MEMORY]);
    await see('other', [WELL]);
    await assertWhy('behind', /busy$/);
    await unseen('other', 21);
    await assertWhy('upstream_failing', /CUDA/);
  });

  test('says of what fails for long since which day', async () => {
    await see('w', [upstream('failing', { since: Date.UTC(2026, 0, 31, 12, 3) })]);
    await assertWhy('upstream_failing', 'the upstream http://failing of worker w fails since 2026-01-31 12:03 UTC');
  });

  test('is in a queue that is paused, before anything else', async () => {
    await see('w', [OUT_OF_MEMORY]);
    await setQueue({ paused: true });
    await assertWhy('paused', `queue ${queue} is paused`);
  });

  test('is in a queue that runs as much as it may', async () => {
    await see('w');
    await setQueue({ max_running: 1 });
    const { id: second } = await db.putOne({ queue });
    await db.takeOne([lane], { workers: ['w'] });
    await assertWhy('limit', `queue ${queue} runs as many tasks as it may: 1 of 1 (max_running)`, second);
  });

  test('is behind others, by priority and age, and has a time when those are answered', async () => {
    await see('w');
    const rows = await db.put([{ queue }, { queue }, { queue, priority: 10 }, { queue, priority: 1 }]);
    const [second, , first, last] = rows.map((row) => row.id);
    assert.deepEqual(await why(first), {
      status: 'waiting',
      ahead: 0,
      eta_seconds: null,
      reason: `it is next in ${lane}, whose workers are busy`,
      rule: 'behind',
    });
    assert.equal((await assertWhy('behind', `it is behind 1 other in ${lane}`)).ahead, 1);
    assert.equal((await assertWhy('behind', `it is behind 4 others in ${lane}`, last)).ahead, 4);
    const taken = await db.take([lane], { size: 2 });
    await db.complete(taken.map((task) => ({ id: task.id })));
    const { eta_seconds: eta, ahead } = await why(last);
    assert.equal(ahead, 2);
    assert.ok(eta && eta > 0, `${eta}`);
    assert.equal((await why(second)).ahead, 0);
  });

  test('is counted up to ten thousand', async () => {
    await see('w');
    await db.put(Array.from({ length: 10_002 }, () => ({ queue, priority: 99 })));
    const { ahead, eta_seconds: eta } = await assertWhy('behind', `it is behind more than 10000 others in ${lane}`);
    assert.deepEqual([ahead, eta], [10_000, null]);
  });

  test('is behind live work in a lower level', async () => {
    const later = await db.putOne({ queue, level: 3 });
    lane = `${queue}:3`;
    await see('w');
    await assertWhy('behind', `it is next in ${lane}, after what waits in lower levels of queue ${queue}`, later.id);
  });
});

describe('a line of a batch', () => {
  test('waits in its batch, which may be paused', async () => {
    const batch = await batches.start([queue, queue]);
    const [line] = (
      await db.rows<{ id: bigint }>('select id from tasklane.task where batch_id = $1 order by id', [batch])
    ).map((row) => row.id);
    lane = `${queue}:1`;
    await see('w');
    await assertWhy('behind', /^it waits for its turn in its batch BATCH-/, line);
    await db.run('select tasklane.pause_batch($1, true)', [batch]);
    await assertWhy('paused', /^its batch BATCH-\S+ is paused$/, line);
  });

  test('is kept by what keeps its lane, and then nobody knows when its batch is through', async () => {
    const batch = await batches.start([queue, queue, queue]);
    await batches.topUp();
    lane = `${queue}:1`;
    await see('w', [WELL]);
    await db.complete([{ id: (await db.takeOne([`${queue}:0`])).id }]);
    const explained = async () =>
      (
        await db.rows<{ reason: string; eta_seconds: number | null }>('select * from tasklane.explain_batch($1)', [
          batch,
        ])
      )[0];
    await db.run(`update tasklane.batch set completed = 1, total = 4,
      marks = json_build_array(json_build_object('at', now() - interval '10 s', 'ended', 0)) where batch_id = ${batch}`);
    assert.match((await explained())?.reason ?? '', /busy$/);
    assert.ok((await explained())?.eta_seconds);
    await see('w', [OUT_OF_MEMORY]);
    assert.match((await explained())?.reason ?? '', /^the upstream .* answers 500 "CUDA out of memory" since /);
    assert.equal((await explained())?.eta_seconds, null);
    await unseen('w', 50);
    assert.equal(
      (await explained())?.reason,
      `its worker w has not been seen for 50s, and no other takes from ${lane}`,
    );
  });

  test('is refused again and again', async () => {
    const batch = await batches.start([queue]);
    await batches.topUp();
    lane = `${queue}:1`;
    await see('w', [WELL]);
    await db.complete([{ id: (await db.takeOne([`${queue}:0`])).id }]);
    await refuse((await db.takeOne([lane], { workers: ['w'] })).id, 3);
    const [explained] = await db.rows<{ reason: string }>('select * from tasklane.explain_batch($1)', [batch]);
    assert.match(
      explained?.reason ?? '',
      /^its lines are refused: the model server answered 429: too many; tried again in \d+s$/,
    );
  });
});

/** A task that runs is refused, with what is kept of that. */
async function refuse(task: bigint, times: number): Promise<void> {
  await db.release([{ id: task, delay: 8, begun: false }]);
  await db.run('delete from tasklane.task_attempt where id = $1', [task]);
  await db.run(
    `insert into tasklane.task_attempt (id, attempt, taken_at, ended_at, worker, reason, refusals)
     values ($1, 1, now() - interval '5 minutes', now(), 'w', 'the model server answered 429: too many', $2)`,
    [task, times],
  );
}

describe('a deferred task', () => {
  test('is to run at its time', async () => {
    const { id: later } = await db.putOne({ queue, options: { delay_seconds: 3600 } });
    const { status } = await assertWhy('deferred', new RegExp(`^it is to run at .*${CLOCK}, in (1h|60m)$`), later);
    assert.equal(status, 'deferred');
  });

  test('was given back, and why', async () => {
    await db.takeOne([lane]);
    await db.release([{ id, delay: 8, reason: 'the model server answered 500: CUDA out of memory' }]);
    await assertWhy(
      'deferred',
      /^attempt 1 ended: the model server answered 500: CUDA out of memory; tried again in [78]s$/,
    );
  });

  test('is refused, how often, since when, and what was said', async () => {
    await db.takeOne([lane]);
    await refuse(id, 7);
    const words = 'the model server answered 429: too many; tried again in [78]s';
    await assertWhy('upstream_refusing', new RegExp(`^refused 7 times since ${CLOCK}: ${words}$`));
    await db.run('update tasklane.deferred set run_at = now() where id = $1', [id]);
    await assertWhy('upstream_refusing', /; tried again at once$/);
  });
});

describe('a running task', () => {
  test('is in the hands of a worker', async () => {
    await see('w', [WELL], { name: 'gpu-1' });
    await db.takeOne([lane], { workers: ['w'] });
    const { ahead, status } = await assertWhy('running', new RegExp(`^worker gpu-1 has it since ${CLOCK}, for \\ds$`));
    assert.deepEqual([status, ahead], ['running', null]);
    await db.release([{ id, delay: 0 }]);
    await db.takeOne([lane], { workers: ['w'] });
    await assertWhy('running', / \(attempt 2\)$/);
  });

  test('is in the hands of somebody', async () => {
    await db.takeOne([lane]);
    await assertWhy('running', /^a worker that did not say who it is has it since /);
    await db.release([{ id, delay: 0 }]);
    await db.takeOne([lane], { workers: ['forgotten'] });
    await assertWhy('running', /^worker forgotten has it since /);
  });

  test('is in the hands of a worker whose upstream fails, or that is gone', async () => {
    await see('w', [OUT_OF_MEMORY]);
    await db.takeOne([lane], { workers: ['w'], leases: [120] });
    await assertWhy(
      'upstream_failing',
      /^worker w has it since .*, and its upstream http:\/\/failing answers 500 "CUDA out of memory" since /,
    );
    await unseen('w', 40);
    await assertWhy('worker_lost', 'its worker w has not been seen for 40s; its lease ends in 2m');
    await see('w', null, { stopping: true });
    await assertWhy('worker_lost', 'its worker w has stopped; its lease ends in 2m');
  });
});

describe('a task that has ended', () => {
  test('was answered', async () => {
    await see('w', null, { name: 'gpu-1' });
    await db.takeOne([lane], { workers: ['w'] });
    await db.complete([{ id, status: 418 }]);
    const { status } = await assertWhy('ended', /^worker gpu-1 answered 418 at attempt 1, after \ds$/);
    assert.equal(status, 'failed');
  });

  test('is dead, cancelled or expired', async () => {
    await setQueue({ max_attempts: 1 });
    await db.takeOne([lane]);
    await db.release([{ id, reason: 'the model server answered 500' }]);
    await assertWhy('ended', 'no attempts are left after 1: the model server answered 500');
    const [waits, runs, late] = (await db.put([{ queue }, { queue }, { queue }])).map((row) => row.id) as [
      bigint,
      bigint,
      bigint,
    ];
    await db.cancel([waits]);
    await assertWhy('ended', 'it was cancelled before it was taken', waits);
    await db.takeOne([lane]);
    await db.cancel([runs]);
    await assertWhy('ended', 'it was cancelled while it ran', runs);
    await db.age([late]);
    const expired = await assertWhy('ended', 'its deadline passed before it was answered', late);
    assert.equal(expired.status, 'expired');
    await db.sweep();
    await assertWhy('ended', 'its deadline passed before it was answered', late);
  });
});

test('is asked for by printed id, and not found when there is none', async () => {
  const reason = `no worker takes from ${lane}`;
  assert.equal(await db.value('select reason from tasklane.explain_task($1)', [printed]), reason);
  await assert.rejects(
    db.value(`select * from tasklane.explain_task('TASK-1-0-C-250101000000-0000-000001')`),
    code('TL404'),
  );
  await assert.rejects(db.value(`select * from tasklane.explain_task('nonsense')`), code('TL404'));
  assert.deepEqual(await db.rows('select * from tasklane.explain_task(1::bigint)'), []);
});

test('causes of lanes come for all of them at once, of those that have one', async () => {
  const idle = await db.register(database.name());
  await db.putOne({ queue: idle });
  await see('well');
  const causes = await db.rows<{ lane: string; rule: string }>(
    `select l.queue || ':' || l.level as lane, c.rule from tasklane.lane_causes() c join tasklane.queue_stats l using (lane_id)
     where l.queue = any($1)`,
    [[queue, idle]],
  );
  assert.deepEqual(causes, [{ lane: `${idle}:0`, rule: 'no_worker' }]);
});
