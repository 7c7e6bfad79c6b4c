import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { code, type Item, type TakenRow, testDatabase } from '../support/sql.ts';

const database = await testDatabase();
const db = await database.open();
const STRATEGIES = ['fifo', 'round_robin', 'active_passive', 'sequential'];

/** Registers `count` queues of the test's own. */
async function queues(count: number, endpoint?: string): Promise<string[]> {
  const names = Array.from({ length: count }, database.name);
  for (const name of names) await db.register(name, endpoint);
  return names;
}

async function queue(): Promise<string> {
  return (await queues(1))[0] as string;
}

const ids = (rows: { id: bigint }[]) => rows.map((row) => row.id);
const lane = (row: TakenRow) => `${row.queue}:${row.level}`;
const waiting = (name: string) =>
  db.value<bigint>('select coalesce(sum(waiting), 0)::bigint from tasklane.queue_stats where queue = $1', [name]);

for (const strategy of STRATEGIES) {
  describe(`${strategy}: what every strategy does`, () => {
    test('a lane with nothing in it, and one that nothing was ever put to, yield nothing', async () => {
      const name = await queue();
      assert.deepEqual(await db.take([`${name}:0`, `${name}:7`], { strategy, size: 10 }), []);
      await db.putOne({ queue: name });
      await db.take([`${name}:0`]);
      assert.deepEqual(await db.take([`${name}:0`, `${name}:7`], { strategy, size: 10 }), []);
    });

    test('empty lanes around a lane with work do not hide it', async () => {
      const names = await queues(3);
      const put = await db.putOne({ queue: names[1] ?? null, level: 3 });
      const lanes = names.flatMap((name) => [`${name}:3`, `${name}:9`]);
      const taken = await db.takeOne(lanes, { strategy, size: 10 });
      assert.deepEqual([taken.id, taken.turn, lane(taken)], [put.id, 3, lanes[2]]);
    });

    test('a lane listed twice, in any spelling and with any hints, hands each task out once', async () => {
      const name = await queue();
      const put = await db.put([{ queue: name }, { queue: name }, { queue: name }]);
      const size = strategy === 'sequential' ? 1 : 3;
      const first = put[0]?.id as bigint;
      const taken = await db.take([`${name}:0`, `${name}:0`, `${name}:00`], {
        strategy,
        size: 10,
        hintRanks: [0, 95, 95],
        hintIds: [0n, first, first - 1n],
      });
      assert.deepEqual(ids(taken), ids(put).slice(0, size));
    });

    test('a paused queue yields nothing until it is resumed, and others beside it go on', async () => {
      const [paused, other] = (await queues(2)) as [string, string];
      await db.put([{ queue: paused }, { queue: other }]);
      await db.run('select tasklane.set_queue($1, $2)', [paused, { paused: true }]);
      const lanes = [`${paused}:0`, `${other}:0`];
      assert.deepEqual((await db.take(lanes, { strategy, size: 10 })).map(lane), [lanes[1]]);
      assert.deepEqual(await db.take(lanes, { strategy, size: 10 }), []);
      await db.run('select tasklane.set_queue($1, $2)', [paused, { paused: false }]);
      assert.deepEqual((await db.take(lanes, { strategy, size: 10 })).map(lane), [lanes[0]]);
    });

    test('the endpoint filter leaves out queues of other endpoints', async () => {
      const [chat] = (await queues(1)) as [string];
      const [embeddings] = (await queues(1, '/v1/embeddings')) as [string];
      await db.put([{ queue: chat }, { queue: embeddings }]);
      const lanes = [`${chat}:0`, `${embeddings}:0`];
      const taken = await db.take(lanes, { strategy, size: 10, endpoint: '/v1/embeddings' });
      assert.deepEqual(
        taken.map((row) => [lane(row), row.turn, row.endpoint]),
        [[lanes[1], 2, '/v1/embeddings']],
      );
      assert.deepEqual(await db.take(lanes, { strategy, size: 10, endpoint: '/v1/none' }), []);
    });

    test('a minimum age leaves younger tasks, of every priority, where they are', async () => {
      const name = await queue();
      const old = await db.put([90, 10, 50, 10].map((priority) => ({ queue: name, priority })));
      await backdate(ids(old), 100);
      const young = await db.put([100, 90, 10, 0].map((priority) => ({ queue: name, priority })));
      const expected = [0, 2, 1, 3].map((index) => old[index]?.id);
      const size = strategy === 'sequential' ? 1 : 10;
      const taken = await db.take([`${name}:0`], { strategy, size, minAge: 50 });
      assert.deepEqual(
        taken.map((row) => row.rank),
        [10, 50, 90, 90].slice(0, size),
      );
      assert.equal(taken.length, Math.min(size, expected.length));
      if (strategy !== 'sequential') {
        assert.deepEqual(await db.take([`${name}:0`], { strategy, size, minAge: 50 }), []);
        assert.deepEqual(ids(await db.take([`${name}:0`], { strategy, size })), ids(young));
      }
    });

    test('within a lane a higher priority goes first, then the earlier put', async () => {
      const name = await queue();
      const put = await db.put([5, 100, 0, 5, 100].map((priority) => ({ queue: name, priority })));
      const order = [1, 4, 0, 3, 2].map((index) => put[index]?.id as bigint);
      const taken: bigint[] = [];
      for (const _ of order) {
        const row = await db.takeOne([`${name}:0`], { strategy });
        taken.push(row.id);
        await db.complete([{ id: row.id }]);
      }
      assert.deepEqual(taken, order);
    });

    test('a task whose deadline has passed is never handed out', async () => {
      const name = await queue();
      const put = await db.put([{ queue: name }, { queue: name }, { queue: name, priority: 0 }]);
      await db.age([put[0]?.id as bigint, put[2]?.id as bigint]);
      assert.deepEqual(ids(await db.take([`${name}:0`], { strategy, size: 10 })), [put[1]?.id]);
      await db.complete([{ id: put[1]?.id as bigint }]);
      await backdate(ids(put), 100);
      assert.deepEqual(await db.take([`${name}:0`], { strategy, size: 10, minAge: 50 }), []);
    });

    test('an unknown queue in any place is TL404, and nothing is taken', async () => {
      const name = await queue();
      await db.putOne({ queue: name });
      for (const lanes of [
        ['nowhere:0', `${name}:0`],
        [`${name}:0`, 'nowhere:0'],
        [`${name}:0`, 'nowhere:3', `${name}:1`],
        [`${name}:0`, `${'q'.repeat(64)}:0`],
      ])
        await assert.rejects(db.take(lanes, { strategy, size: 10 }), code('TL404'));
      assert.equal(await waiting(name), 1n);
    });

    test('what is not a lane is TL400, and nothing is taken', async () => {
      const name = await queue();
      await db.putOne({ queue: name });
      for (const wrong of [
        name,
        `${name}:`,
        `${name}:100`,
        `${name}:-1`,
        `${name}:x`,
        `${name}:0\n`,
        ':0',
        'a b:0',
        `${'q'.repeat(65)}:0`,
        '',
      ])
        await assert.rejects(db.take([`${name}:0`, wrong], { strategy }), code('TL400'), wrong);
      assert.equal(await waiting(name), 1n);
    });

    test('several requests in one call are dealt the tasks in order, each under its own worker and lease', async () => {
      const names = await queues(6);
      const put = await db.put(names.map((name) => ({ queue: name })));
      const taken = await db.take(
        names.map((name) => `${name}:0`),
        { strategy, sizes: [2, 0, 3, 4], workers: ['w1', 'w2', 'w3', 'w4'], leases: [10, 20, null, 40] },
      );
      assert.deepEqual(ids(taken), ids(put));
      assert.deepEqual(
        taken.map((row) => row.request),
        [1, 1, 3, 3, 3, 4],
      );
      assert.deepEqual(
        await db.rows(
          `select worker, extract(epoch from lease_until - taken_at)::int as lease from tasklane.running
           where id = any($1) order by id`,
          [ids(taken)],
        ),
        [10, 10, 600, 600, 600, 40].map((lease, index) => ({
          lease,
          worker: ['w1', 'w1', 'w3', 'w3', 'w3', 'w4'][index],
        })),
      );
    });

    test('of 200 lanes the few that hold work are found', async () => {
      const names = await queues(20);
      const lanes = names.flatMap((name) => Array.from({ length: 10 }, (_, level) => `${name}:${level}`));
      const holding = [3, 77, 199];
      await db.put(lanes.map((name) => ({ queue: name.split(':')[0] ?? null, level: Number(name.split(':')[1]) })));
      await db.take(lanes, { size: 200 });
      await db.run(
        'select tasklane.return_tasks(array_agg(id), array_agg(attempt)) from tasklane.running r where lane_id = any($1)',
        [await laneIds(holding.map((index) => lanes[index] as string))],
      );
      await db.run('delete from tasklane.running');
      const taken = await db.take(lanes, { strategy, size: 10 });
      assert.deepEqual(taken.map(lane).sort(), holding.map((index) => lanes[index]).sort());
    });
  });
}

async function laneIds(lanes: string[]): Promise<number[]> {
  return db.value(
    'select array_agg(tasklane.lane_of(lane) order by nth) from unnest($1::text[]) with ordinality as l(lane, nth)',
    [lanes],
  );
}

/** Gives waiting tasks ids of an earlier time; their order among themselves stays. */
async function backdate(list: bigint[], seconds: number): Promise<void> {
  for (const table of ['task', 'ready'])
    await db.run(`update tasklane.${table} set id = id - $2::bigint * 10000000000 where id = any($1)`, [list, seconds]);
}

test('an unknown strategy is TL400', async () => {
  const name = await queue();
  for (const strategy of ['lifo', '', 'FIFO'])
    await assert.rejects(db.take([`${name}:0`], { strategy }), code('TL400'));
});

describe('fifo', () => {
  test('puts to several lanes come back in the order of the puts', async () => {
    const names = await queues(3);
    const put: bigint[] = [];
    for (let n = 0; n < 30; n++) put.push((await db.putOne({ queue: names[(n * 7) % 3] ?? null, level: n % 2 })).id);
    const lanes = names.flatMap((name) => [`${name}:1`, `${name}:0`]);
    const taken: bigint[] = [];
    for (const size of [1, 2, 3, 5, 8, 20]) taken.push(...ids(await db.take(lanes, { size })));
    assert.deepEqual(taken, put);
  });

  test('it tells whether others may wait: always when some do, and not when it was the last', async () => {
    const [a, b, limited] = (await queues(3)) as [string, string, string];
    const lanes = [`${a}:0`, `${b}:0`];
    const left = async (count: number, size: number) => {
      await db.put(Array.from({ length: count }, (_, n) => ({ queue: n % 2 ? a : b })));
      const told = (await db.take(lanes, { size })).map((row) => row.more);
      await db.take(lanes, { size: 1000 });
      return [...new Set(told)];
    };
    const found = [await left(1, 1), await left(2, 1), await left(30, 29), await left(30, 30), await left(3, 10)];
    assert.deepEqual(found, [[false], [true], [true], [false], [false]]);
    await db.run('select tasklane.set_queue($1, $2)', [limited, { max_running: 1 }]);
    await db.put([{ queue: limited }, { queue: limited }]);
    assert.deepEqual(
      (await db.take([`${limited}:0`], { size: 5 })).map((row) => row.more),
      [true],
    );
  });

  test('a put between two takes keeps its place', async () => {
    const [a, b] = (await queues(2)) as [string, string];
    const lanes = [`${a}:0`, `${b}:0`];
    const first = await db.putOne({ queue: b });
    const second = await db.putOne({ queue: a });
    assert.equal((await db.takeOne(lanes)).id, first.id);
    const third = await db.putOne({ queue: b });
    const urgent = await db.putOne({ queue: a, priority: 6 });
    assert.deepEqual(ids(await db.take(lanes, { size: 9 })), [urgent.id, second.id, third.id]);
  });

  test('sizes from 1 to 1,000 give just that many, in order, when one of many lanes holds everything', async () => {
    const names = await queues(50);
    const lanes = names.map((name) => `${name}:0`);
    const put = await db.put(Array.from({ length: 1250 }, () => ({ queue: names[31] ?? null })));
    const taken: bigint[] = [];
    for (const size of [1, 9, 90, 1000, 1000]) {
      const rows = await db.take(lanes, { size });
      assert.equal(rows.length, Math.min(size, put.length - taken.length));
      taken.push(...ids(rows));
    }
    assert.deepEqual(taken, ids(put));
  });

  test('it agrees with a sorted list, for any lanes, priorities, hints and sizes', async () => {
    const names = await queues(10);
    const all = names.flatMap((name) => Array.from({ length: 5 }, (_, level) => ({ queue: name, level })));
    await fc.assert(
      fc.asyncProperty(
        fc.shuffledSubarray(all, { minLength: 1 }),
        // Runs in one lane and stray ones: the first pass then cuts some lanes short and not others.
        fc.array(fc.tuple(fc.nat(), fc.constantFrom(1, 1, 2, 40, 150), fc.constantFrom(5, 5, 5, 0, 100)), {
          maxLength: 12,
        }),
        fc.array(fc.constantFrom(1, 2, 37, 90, 300, 1000), { minLength: 1, maxLength: 4 }),
        fc.boolean(),
        async (listed, runs, sizes, hinted) => {
          const items: Item[] = runs.flatMap(([place, length, priority]) =>
            Array.from({ length }, () => ({ ...listed[place % listed.length], priority })),
          );
          const model = (await db.put(items)).sort((a, b) => a.rank - b.rank || Number(a.id - b.id));
          const lanes = listed.map(({ queue, level }) => `${queue}:${level}`);
          for (const size of [...sizes, 1000, 1000, 1000]) {
            const head = model[0];
            const hints = head &&
              hinted && { hintRanks: lanes.map(() => head.rank), hintIds: lanes.map(() => head.id) };
            assert.deepEqual(ids(await db.take(lanes, { size, ...hints })), ids(model.splice(0, size)));
          }
          await db.run('truncate tasklane.ready, tasklane.running');
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('round_robin', () => {
  /** Lists share 1,000 places to remember their turn in, by hash: another test's list may have left its turn there. */
  async function beginAtFirst(lanes: string[]): Promise<void> {
    await db.run('select tasklane.lock_turn(hashtext($1))', [lanes.join()]);
    await db.run('select tasklane.keep_turn(hashtext($1), $2)', [lanes.join(), lanes.length]);
  }

  test('takes of size 1 alternate over the lanes, so that no lane is ahead by more than one', async () => {
    const names = await queues(5);
    await db.put(names.flatMap((name, index) => Array.from({ length: 10 + 5 * index }, () => ({ queue: name }))));
    const lanes = names.map((name) => `${name}:0`);
    const counts = new Map(lanes.map((name) => [name, 0]));
    for (let n = 0; n < 50; n++) {
      const row = await db.takeOne(lanes, { strategy: 'round_robin' });
      counts.set(lane(row), (counts.get(lane(row)) ?? 0) + 1);
      const values = [...counts.values()];
      assert.ok(Math.max(...values) - Math.min(...values) <= 1, `after ${n + 1} takes: ${values}`);
    }
  });

  test('a take of any size goes on after the lane where the last take of the same list stopped', async () => {
    const names = await queues(3);
    await db.put(names.flatMap((name) => Array.from({ length: 10 }, () => ({ queue: name }))));
    const lanes = names.map((name) => `${name}:0`);
    await beginAtFirst(lanes);
    const turns: number[] = [];
    for (const size of [1, 2, 4, 5, 1, 7])
      turns.push(...(await db.take(lanes, { strategy: 'round_robin', size })).map((row) => row.turn));
    assert.deepEqual(
      turns,
      Array.from({ length: 20 }, (_, n) => (n % 3) + 1),
    );
  });

  test('another session goes on where this one stopped', async () => {
    const names = await queues(3);
    await db.put(names.flatMap((name) => Array.from({ length: 4 }, () => ({ queue: name }))));
    const lanes = names.map((name) => `${name}:0`);
    await beginAtFirst(lanes);
    const other = await database.open();
    const turns: number[] = [];
    for (let n = 0; n < 12; n++)
      turns.push((await (n % 2 ? db : other).takeOne(lanes, { strategy: 'round_robin' })).turn);
    assert.deepEqual(turns, [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]);
  });

  test('lanes that are empty, paused or new are passed over, and join in when they have work', async () => {
    const [a, b, c] = (await queues(3)) as [string, string, string];
    const lanes = [`${a}:0`, `${b}:0`, `${c}:0`, `${b}:1`];
    await beginAtFirst(lanes);
    await db.put([a, a, a, a, b, b, b, c].map((name) => ({ queue: name })));
    await db.run('select tasklane.set_queue($1, $2)', [b, { paused: true }]);
    const turns = async (size: number) =>
      (await db.take(lanes, { strategy: 'round_robin', size })).map((row) => row.turn);
    assert.deepEqual(await turns(3), [1, 3, 1]);
    await db.run('select tasklane.set_queue($1, $2)', [b, { paused: false }]);
    await db.putOne({ queue: b, level: 1 });
    assert.deepEqual(await turns(3), [2, 4, 1]);
    assert.deepEqual(await turns(9), [2, 1, 2]);
  });

  test('a take of 1,000 finds all the work when one of many lanes holds it', async () => {
    const names = await queues(40);
    const put = await db.put(Array.from({ length: 1000 }, () => ({ queue: names[7] ?? null })));
    const taken = await db.take(
      names.map((name) => `${name}:0`),
      { strategy: 'round_robin', size: 1000 },
    );
    assert.deepEqual(ids(taken), ids(put));
  });

  test('every lane gives its fair share in one take, for any backlog', async () => {
    const names = await queues(6);
    const lanes = names.map((name) => `${name}:0`);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom<number>(0, 0, 1, 3, 20, 200), { minLength: 6, maxLength: 6 }),
        fc.integer({ min: 1, max: 500 }),
        async (backlog, size) => {
          await db.put(
            backlog.flatMap((length, index) => Array.from({ length }, () => ({ queue: names[index] ?? null }))),
          );
          const taken = await db.take(lanes, { strategy: 'round_robin', size });
          const got = backlog.map((_, index) => taken.filter((row) => row.turn === index + 1).length);
          assert.equal(
            taken.length,
            Math.min(
              size,
              backlog.reduce((sum, n) => sum + n, 0),
            ),
          );
          const most = Math.max(...got);
          for (const [index, length] of backlog.entries())
            assert.ok((got[index] ?? 0) >= Math.min(length, most - 1), `of ${backlog}, ${size} gave ${got}`);
          await db.run('truncate tasklane.ready, tasklane.running');
        },
      ),
      { numRuns: 40 },
    );
  });
});

describe('active_passive', () => {
  test('the first lane is emptied before the next gives anything, within one call', async () => {
    const [a, b, c] = (await queues(3)) as [string, string, string];
    await db.put([c, b, a, c, b, a].map((name) => ({ queue: name, priority: name === c ? 100 : 5 })));
    const lanes = [`${a}:0`, `${b}:0`, `${c}:0`];
    const turns = async (size: number) =>
      (await db.take(lanes, { strategy: 'active_passive', size })).map((row) => row.turn);
    assert.deepEqual(await turns(3), [1, 1, 2]);
    await db.putOne({ queue: a });
    assert.deepEqual(await turns(9), [1, 2, 3, 3]);
  });

  test('sizes from 1 to 1,000 give just that many', async () => {
    const [a, b] = (await queues(2)) as [string, string];
    const put = await db.put(Array.from({ length: 1200 }, (_, n) => ({ queue: n < 600 ? a : b })));
    const taken: bigint[] = [];
    for (const size of [1, 99, 1000, 1000])
      taken.push(...ids(await db.take([`${a}:0`, `${b}:0`], { strategy: 'active_passive', size })));
    assert.deepEqual(taken, ids(put));
  });
});

describe('sequential', () => {
  const strategy = 'sequential';

  test('one call takes at most one task of a queue, from its first lane that has work', async () => {
    const [a, b] = (await queues(2)) as [string, string];
    await db.put([a, a, b, b].flatMap((name) => [1, 2].map((level) => ({ queue: name, level }))));
    const taken = await db.take([`${a}:0`, `${a}:2`, `${a}:1`, `${b}:1`], { strategy, size: 100 });
    assert.deepEqual(taken.map(lane), [`${a}:2`, `${b}:1`]);
  });

  test('it takes no more than the size, in the order of the lanes', async () => {
    const names = await queues(4);
    await db.put([...names].reverse().map((name) => ({ queue: name })));
    const lanes = names.map((name) => `${name}:0`);
    assert.deepEqual((await db.take(lanes, { strategy, size: 3 })).map(lane), lanes.slice(0, 3));
    assert.deepEqual((await db.take(lanes, { strategy, size: 3 })).map(lane), lanes.slice(3));
  });

  test('every lane of a queue with a running task is skipped, whichever way it was taken', async () => {
    const [a, b] = (await queues(2)) as [string, string];
    await db.put([{ queue: a }, { queue: a, level: 1 }, { queue: b }, { queue: b }]);
    await db.takeOne([`${a}:1`]);
    assert.deepEqual((await db.take([`${a}:0`, `${a}:1`, `${b}:0`], { strategy, size: 9 })).map(lane), [`${b}:0`]);
    assert.deepEqual(await db.take([`${a}:0`, `${a}:1`, `${b}:0`], { strategy, size: 9 }), []);
  });

  for (const [end, act] of Object.entries({
    complete: (id: bigint) => db.complete([{ id }]),
    cancel: (id: bigint) => db.cancel([id]),
    expire: async (id: bigint) => {
      await db.age([id]);
      await db.rows('select * from tasklane.expire_due()');
    },
    return: (id: bigint) => db.rows('select * from tasklane.return_tasks($1, $2)', [[id], [1]]),
  }))
    test(`${end} frees the queue`, async () => {
      const name = await queue();
      await db.put([{ queue: name }, { queue: name }]);
      const running = await db.takeOne([`${name}:0`], { strategy });
      assert.deepEqual(await db.take([`${name}:0`], { strategy }), []);
      await act(running.id);
      assert.equal((await db.take([`${name}:0`], { strategy })).length, 1);
    });
});
