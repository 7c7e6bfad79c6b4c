import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { code, hold, type Item, testDatabase } from '../support/sql.ts';

const database = await testDatabase();
const db = await database.open();
const other = await database.open();

const ids = (rows: { id: bigint }[]) => rows.map((row) => row.id);
const queue = (settings = {}) => db.register(database.name(), undefined, settings);
const HASH = { a: 'aa'.repeat(32), b: 'bb'.repeat(32) };

async function runningIn(name: string, options: object = {}, count = 1): Promise<bigint[]> {
  const put = await db.put(Array.from({ length: count }, () => ({ queue: name, options })));
  return ids(await db.take([put[0]?.lane as string], { size: count }));
}
const running = async (settings = {}, options = {}) => (await runningIn(await queue(settings), options))[0] as bigint;
const rank = (id: bigint) => db.value<number>('select rank::int from tasklane.ready where id = $1', [id]);
const ages = (list: bigint[]) =>
  db.run("update tasklane.ready set ages_at = now() - interval '1 second' where id = any($1)", [list]);

describe('a sweep', () => {
  test('of no more than p_limit leaves the rest, and says swept only when nothing is left', async () => {
    const list = await runningIn(await queue(), {}, 5);
    await db.lapse(list);
    const seen: bigint[] = [];
    const swept: boolean[] = [];
    for (let n = 0; n < 3; n++) {
      const rows = await db.sweep(2);
      seen.push(...rows.flatMap((row) => (row.outcome === 'waiting' && row.id !== null ? [row.id] : [])));
      swept.push(rows[0]?.outcome === 'swept' && rows[0].swept_at instanceof Date);
    }
    assert.deepEqual(seen.sort(), [...list].sort());
    assert.deepEqual(swept, [false, false, true]);
    assert.deepEqual(
      (await db.sweep()).map((row) => row.outcome),
      ['swept'],
    );
  });

  test('tells the lanes of which something stopped running once each', async () => {
    const names = [await queue({ max_running: 5 }), await queue()];
    for (const name of names) await db.lapse(await runningIn(name, {}, 2));
    const rows = await db.rows<{ outcome: string; lane: string; limited: boolean }>(
      'select * from tasklane.sweep_due()',
    );
    assert.deepEqual(
      rows.flatMap(({ outcome, lane, limited }) => (outcome === 'freed' ? [[lane, limited]] : [])).sort(),
      [
        [`${names[0]}:0`, true],
        [`${names[1]}:0`, false],
      ].sort(),
    );
  });

  test('does not look at what was due before p_since', async () => {
    const id = await running();
    await db.lapse([id]);
    await db.run("update tasklane.running set lease_until = now() - interval '1 hour' where id = $1", [id]);
    const since = await db.value<string>("select (now() - interval '30 minutes')::text");
    assert.deepEqual(
      (await db.sweep(1000, since)).map((row) => row.outcome),
      ['swept'],
    );
    assert.deepEqual(
      (await db.sweep()).flatMap((row) => row.id ?? []),
      [id],
    );
  });

  test('gives leases time after a break, as long as they are and at most ten seconds, but not deadlines', async () => {
    const [short, long] = [await running({ lease_seconds: 2 }), await running({ lease_seconds: 600 })];
    const expired = await running();
    await db.lapse([short, long, expired]);
    await db.age([expired]);
    const sweep = async (served: number | null) => {
      const rows = await db.rows<{ outcome: string; id: bigint | null }>(
        "select * from tasklane.sweep_due(1000, '-infinity', $1)",
        [served],
      );
      return rows.flatMap(({ outcome, id }) => (id === null ? [] : [[outcome, id]]));
    };
    assert.deepEqual(await sweep(1.9), [['expired', expired]]);
    assert.deepEqual(await sweep(2), [['waiting', short]]);
    assert.deepEqual(await sweep(9.9), []);
    assert.deepEqual(await sweep(10), [['waiting', long]]);
  });

  test('takes its time from before it looks, so that the next sweep misses nothing', async () => {
    const [row] = await db.sweep();
    const [, end] = await hold(other, () => other.value('select now()'));
    const later = await db.value<boolean>('select now() >= $1', [row?.swept_at]);
    await end('commit');
    assert.equal(later, true);
  });

  test('lets a task move up a rank for each so many seconds that it waited, late or not, and no further than rank 0', async () => {
    const name = await queue();
    await db.run('update tasklane.queue set aging_seconds = 60 where queue = $1', [name]);
    const { id } = await db.putOne({ queue: name, priority: 95 });
    const leftSeconds = () =>
      db.value<number | null>('select extract(epoch from ages_at - now())::float8 from tasklane.ready where id = $1', [
        id,
      ]);
    const seen: unknown[] = [];
    for (const waited of [61, 200, 3600]) {
      await db.run(
        "update tasklane.ready set ages_at = now() - $2 * interval '1 second' + interval '1 minute' where id = $1",
        [id, waited],
      );
      const moved = (await db.sweep()).filter((row) => row.outcome === 'moved').map((row) => row.rank);
      const again = (await db.sweep()).filter((row) => row.outcome === 'moved');
      const left = await leftSeconds();
      seen.push([moved, again.length, await rank(id), left && Math.ceil(left)]);
    }
    assert.deepEqual(seen, [
      [[4], 0, 4, 59],
      [[1], 0, 1, 40],
      [[0], 0, 0, null],
    ]);
  });
});

describe('backoff', () => {
  const backoff = (attempt: number, initial: number, factor: number, max: number, jitter: boolean) =>
    db.value<number>('select tasklane.backoff($1, $2, $3, $4, $5)', [attempt, initial, factor, max, jitter]);
  const seconds = fc.integer({ min: 0, max: 86_400_000 }).map((ms) => ms / 1000);
  const factor = fc.double({ min: 1, max: 100, noNaN: true });

  test('without jitter is initial x factor^(attempt - 1), up to max; with jitter anything up to that', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 100 }),
        seconds,
        factor,
        seconds,
        async (attempt, initial, by, max) => {
          const formula = Math.min(max, initial * by ** (attempt - 1));
          const whole = await backoff(attempt, initial, by, max, false);
          assert.ok(Math.abs(whole - formula) <= formula * 1e-9, `${whole} is not ${formula}`);
          const part = await backoff(attempt, initial, by, max, true);
          assert.ok(part >= 0 && part <= whole);
        },
      ),
    );
  });

  test('reaches max at the hugest attempts and factors, and stays at initial where nothing grows', async () => {
    for (const by of [1.001, 1.02, 2, 100, 1e10, 1e300])
      assert.equal(await backoff(2 ** 31 - 1, 1, by, 300, false), 300);
    assert.equal(await backoff(2 ** 31 - 1, 7, 1, 300, false), 7);
    assert.equal(await backoff(2 ** 31 - 1, 0, 100, 300, false), 0);
  });

  test('spreads over all that it may be', async () => {
    const list = await db.value<number[]>(
      'select array_agg(tasklane.backoff(3, 1, 2, 300, true)) from generate_series(1, 400)',
    );
    assert.ok(Math.min(...list) < 0.4 && Math.max(...list) > 3.6);
  });
});

describe('a release', () => {
  const delayOf = async (id: bigint) =>
    Number(await db.value('select extract(epoch from run_at - now()) from tasklane.deferred where id = $1', [id]));
  const near = (actual: number, expected: number) =>
    assert.ok(actual <= expected && actual > expected - 20, `${actual} is not just below ${expected}`);

  test('waits as the queue says, each field of which a task can override alone', async () => {
    const retry = { initial_seconds: 100, factor: 3, max_seconds: 5000, jitter: false };
    for (const [own, expected] of [
      [undefined, [100, 300, 900]],
      [{ initial_seconds: 1000 }, [1000, 3000, 5000]],
      [{ factor: 10 }, [100, 1000, 5000]],
      [{ max_seconds: 200 }, [100, 200, 200]],
      [{ initial_seconds: 40, factor: 1, max_seconds: 30 }, [30, 30, 30]],
    ] as const) {
      const name = await queue({ retry, max_attempts: 9 });
      const [id] = (await runningIn(name, own ? { retry: own } : {})) as [bigint];
      for (const wait of expected) {
        assert.equal((await db.release([{ id }]))[0]?.verdict, 'deferred');
        near(await delayOf(id), wait);
        await db.lapse([id]);
        await db.sweep();
        await db.takeOne([`${name}:0`]);
      }
    }
  });

  test('with jitter, of the queue or of the task alone, waits at most that long', async () => {
    for (const [queued, own] of [
      [true, {}],
      [false, { jitter: true }],
    ] as const) {
      const name = await queue({ retry: { initial_seconds: 1000, factor: 1, max_seconds: 1000, jitter: queued } });
      const list = await runningIn(name, { retry: own }, 20);
      await db.release(list.map((id) => ({ id })));
      const delays: number[] = [];
      for (const id of list) delays.push(await delayOf(id));
      assert.ok(delays.every((delay) => delay <= 1000) && Math.max(...delays) - Math.min(...delays) > 20);
    }
  });

  test('of what waits, is deferred, is dead, never was or runs under another attempt does nothing', async () => {
    const name = await queue({ max_attempts: 1 });
    const { id: waiting } = await db.putOne({ queue: name });
    const { id: deferred } = await db.putOne({ queue: name, options: { delay_seconds: 60 } });
    const dead = await running({ max_attempts: 1 });
    await db.release([{ id: dead }]);
    const stale = await running();
    const rows = await db.release([...[waiting, deferred, dead, 7n].map((id) => ({ id })), { id: stale, attempt: 2 }]);
    assert.deepEqual(
      rows.map((row) => [row.verdict, row.lane]),
      ['waiting', 'deferred', 'dead', 'unknown', 'running'].map((verdict) => [verdict, null]),
    );
    for (const id of [waiting, deferred, dead]) {
      const printed = await db.value('select task_id from tasklane.task_status where id = $1', [id]);
      await assert.rejects(db.value('select tasklane.release($1)', [printed]), { code: 'TL409' });
    }
  });
});

describe('an extension of leases', () => {
  const left = async (id: bigint) =>
    Number(await db.value('select extract(epoch from lease_until - now()) from tasklane.running where id = $1', [id]));

  test('runs from now, for as long as the lease was taken for, or as it says', async () => {
    const name = await queue({ lease_seconds: 100 });
    await db.put([{ queue: name }, { queue: name }]);
    const [own, queued] = ids(await db.take([`${name}:0`], { sizes: [1, 1], leases: [5000, null] })) as [
      bigint,
      bigint,
    ];
    await db.lapse([own, queued]);
    const rows = await db.heartbeat([{ id: own }, { id: queued }]);
    assert.deepEqual(
      rows.map((row) => row.verdict),
      ['extended', 'extended'],
    );
    for (const [id, seconds] of [
      [own, 5000],
      [queued, 100],
    ] as const)
      assert.ok((await left(id)) <= seconds && (await left(id)) > seconds - 20);
    await db.heartbeat([
      { id: own, lease: 50 },
      { id: queued, lease: 9000 },
    ]);
    assert.ok((await left(own)) <= 50 && (await left(queued)) > 8900);
  });

  test('gives each its verdict, in order, and a stale attempt extends nothing', async () => {
    const [id, gone, ended, waits] = [await running(), await running(), await running(), await running()];
    await db.cancel([gone]);
    await db.complete([{ id: ended }]);
    await db.release([{ id: waits, delay: 0 }]);
    await db.lapse([id]);
    const told = async (tasks: { id: bigint; attempt?: number }[]) =>
      (await db.heartbeat(tasks)).map((row) => row.verdict);
    assert.deepEqual(await told([{ id, attempt: 2 }]), ['lost']);
    assert.ok((await left(id)) < 0);
    assert.deepEqual(await told([{ id: waits }, { id, attempt: 2 }, { id: gone }, { id }, { id: ended }, { id: 7n }]), [
      'lost',
      'lost',
      'cancelled',
      'extended',
      'lost',
      'lost',
    ]);
  });
});

describe('a change of priorities', () => {
  test('finds a task that waits under another rank than it was put with, and is what the next life has', async () => {
    const name = await queue({ max_attempts: 1 });
    await db.run('update tasklane.queue set aging_seconds = 60 where queue = $1', [name]);
    const [first, second] = ids(await db.put([{ queue: name }, { queue: name }])) as [bigint, bigint];
    await ages([first]);
    await db.sweep();
    assert.deepEqual([await rank(first), await rank(second)], [94, 95]);
    const rows = await db.setPriorities([second, first, 7n], [7, 3, 5]);
    assert.deepEqual(
      rows.map((row) => [row.refusal, row.lane, row.rank]),
      [
        [null, `${name}:0`, 93],
        [null, `${name}:0`, 97],
        ['unknown', null, null],
      ],
    );
    await db.lapse(ids(await db.take([`${name}:0`], { size: 2 })));
    await db.sweep();
    await db.replay([first, second]);
    assert.deepEqual([await rank(first), await rank(second)], [97, 93]);
  });

  test('is not for another tenant, nor for what runs or has ended; of a deferred task it holds when it comes to wait', async () => {
    const name = await queue();
    const later = (await db.putOne({ queue: name, options: { delay_seconds: 60 } })).id;
    const [runs, ended] = [await running(), await running()];
    await db.complete([{ id: ended }]);
    assert.deepEqual(
      (await db.setPriorities([later, runs, ended, later], [100, 1, 1, 50], [1, 1, 1, 2])).map((row) => row.refusal),
      [null, 'running', 'succeeded', 'unknown'],
    );
    await db.lapse([later]);
    await db.sweep();
    assert.equal((await db.takeOne([`${name}:0`])).rank, 0);
  });
});

test('of a task that one call bears for its owner and for another tenant, the other is told nothing, whoever is first', async () => {
  const name = await queue({ max_attempts: 1 });
  const { id } = await db.putOne({ queue: name });
  const twice = [id, id];
  const refusals = (rows: { refusal: string | null }[]) => rows.map((row) => row.refusal);
  assert.deepEqual(refusals(await db.setPriorities(twice, [1, 2], [2, 1])), ['unknown', null]);
  assert.equal(await rank(id), 98);
  await db.takeOne([`${name}:0`]);
  await db.release([{ id }]);
  assert.deepEqual(refusals(await db.replay(twice, [2, 1])), ['unknown', null]);
  assert.deepEqual(await db.refusals(twice, [2, 1]), ['unknown', null]);
  assert.equal(await db.state(id), 'cancelled');
});

describe('dead tasks', () => {
  test('are listed oldest first, by tenant and queue, and live again with the time that they had', async () => {
    const name = await queue({ max_attempts: 1 });
    const tenant = await db.value<number>(
      "insert into tasklane.tenant (tenant, callback_secret) values ('beside', '') returning tenant_id",
    );
    const put = ids(await db.put([1, tenant, 1].map((owner) => ({ queue: name, tenant: owner, timeout: 5000 }))));
    await db.take([`${name}:0`], { size: 3 });
    await db.release(put.map((id) => ({ id })));
    const dead = (owner: number | null, of: string | null, limit = 9) =>
      db.value<bigint[]>('select tasklane.dead_tasks($1, $2, $3)', [owner, of, limit]);
    assert.deepEqual(await dead(null, name), put);
    assert.deepEqual(await dead(null, name, 2), put.slice(0, 2));
    assert.deepEqual(await dead(tenant, null), [put[1]]);
    await assert.rejects(dead(null, 'nowhere'), { code: 'TL404' });
    const mine = put[0] as bigint;
    assert.deepEqual(
      (await db.replay([mine, mine, put[1] as bigint, 7n], [1, 1, 1, 1])).map((row) => row.refusal),
      [null, 'waiting', 'unknown', 'unknown'],
    );
    const left = await db.value(
      'select extract(epoch from expires_at - now())::int from tasklane.task_status where id = $1',
      [mine],
    );
    assert.ok(Number(left) > 4900 && Number(left) <= 5000);
    const taken = await db.takeOne([`${name}:0`]);
    assert.deepEqual([taken.id, taken.attempt], [mine, 1]);
    assert.deepEqual(await dead(null, name), put.slice(1));
  });
});

describe('the admission of puts', () => {
  const key = (name: string, body: keyof typeof HASH = 'a') => ({ idempotency_key: name, body_hash: HASH[body] });
  const told = async (items: Item[]) => (await db.tryPut(items)).map((row) => row.code ?? row.state);
  const count = (name: string) =>
    db.value<number>(
      'select count(*)::int from tasklane.ready join tasklane.lane using (lane_id) join tasklane.queue using (queue_id) where queue = $1',
      [name],
    );

  test('refuses a run_at beyond 366 days, and one that its client would not live to see', async () => {
    const name = await queue();
    const days = (n: number) => ({ delay_seconds: n * 86_400 });
    assert.deepEqual(
      await told([
        { queue: name, options: days(365) },
        { queue: name, options: days(367) },
        { queue: name, mode: 'blocking', timeout: 60, options: { delay_seconds: 61 } },
        { queue: name, mode: 'blocking', timeout: 60, options: { delay_seconds: 30 } },
      ]),
      ['deferred', 'TL400', 'TL400', 'deferred'],
    );
  });

  test('puts a group wholly or not at all, and a refused group keeps neither its key nor its room', async () => {
    const name = await queue({ max_depth: 3 });
    const items = (group: number, ...names: string[]) =>
      names.map((queue) => ({ queue, group, options: key(`${name} ${group}`) }));
    assert.deepEqual(await told([...items(1, name, 'nowhere'), ...items(2, name, name), { queue: name, group: 3 }]), [
      null,
      'TL404',
      'waiting',
      'repeated',
      'waiting',
    ]);
    assert.deepEqual(
      await told([
        { queue: name, group: 1 },
        { queue: name, group: 1 },
        { queue: name, group: 2 },
      ]),
      ['TL429', null, 'waiting'],
    );
    assert.deepEqual([await count(name), (await told(items(1, name)))[0]], [3, 'TL429']);
    await db.takeOne([`${name}:0`]);
    assert.deepEqual(await told(items(1, name)), ['waiting']);
  });

  test('of a key that a call repeats gives all the first task, and refuses another body', async () => {
    const name = await queue();
    const rows = await db.tryPut([
      { queue: name, group: 1, options: key(`${name} k`) },
      { queue: name, group: 1, options: key(`${name} k`) },
      { queue: name, group: 2, options: key(`${name} k`) },
      { queue: name, group: 3, options: key(`${name} k`, 'b') },
    ]);
    assert.deepEqual(
      rows.map((row) => row.code ?? row.state),
      ['waiting', 'repeated', 'repeated', 'TL409'],
    );
    assert.equal(new Set(rows.slice(0, 3).map((row) => row.task_id)).size, 1);
    assert.match(rows[3]?.message ?? '', new RegExp(rows[0]?.task_id as string));
    assert.equal(await count(name), 1);
  });

  for (const body of ['a', 'b'] as const)
    test(`raises TL500 when a group that is refused claimed a key that another has with body ${body}: apart, that one is put`, async () => {
      const [full, name] = [await queue({ max_depth: 1 }), await queue()];
      await db.putOne({ queue: full });
      const refused = { queue: full, options: key(`${name} k`) };
      const good = { queue: name, options: key(`${name} k`, body) };
      await assert.rejects(told([refused, good]), { code: 'TL500' });
      assert.deepEqual([...(await told([refused])), ...(await told([good]))], ['TL429', 'waiting']);
    });

  test('reads run_at in ms, delay_seconds from now, and neither as at once', async () => {
    const runAt = (options: object) =>
      db.value<number | null>('select (extract(epoch from tasklane.run_at_of($1) - now()) * 1000)::float8', [
        JSON.stringify(options),
      ]);
    const now = Date.now();
    assert.ok(Math.abs((await runAt({ run_at: now + 5000 })) ?? 0) < 60_000);
    assert.equal(await runAt({ delay_seconds: 0.25 }), 250);
    assert.equal(await runAt({ max_attempts: 1 }), null);
    assert.equal(
      await db.value(
        "select tasklane.run_at_of('{\"run_at\": 1735689600123}')::text from set_config('timezone', 'UTC', false)",
      ),
      '2025-01-01 00:00:00.123+00',
    );
  });
});

test('folding tallies moves what a tenant has in flight into its counts', async () => {
  const name = await queue();
  const flight = () =>
    db.rows(
      'select put_count, ended_count from tasklane.tenant where tenant_id = 1 and (select count(*) from tasklane.lane_tally) = 0',
    );
  await db.run('select tasklane.fold_tallies()');
  const [before] = await flight();
  await db.put([{ queue: name }, { queue: name }]);
  await db.complete(await db.take([`${name}:0`]));
  await db.run('select tasklane.fold_tallies()');
  assert.deepEqual(await flight(), [{ put_count: before?.put_count + 2n, ended_count: before?.ended_count + 1n }]);
});

test('a put in psql whose retry can not be is refused, before a release would have to find out', async () => {
  await db.register('checked');
  for (const retry of [
    '[]',
    '7',
    '{"factor": "x"}',
    '{"factor": 0.5}',
    '{"initial_seconds": -1}',
    '{"jitter": 1}',
    '{"other": 1}',
  ])
    await assert.rejects(db.run("select tasklane.put('checked', '{}', retry => $1)", [retry]), code('TL400'), retry);
  await db.run(
    `select tasklane.put('checked', '{}', retry => '{"initial_seconds": 0.5, "factor": 2, "max_seconds": 60, "jitter": false}')`,
  );
});
