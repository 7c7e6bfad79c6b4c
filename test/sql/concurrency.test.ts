import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { hold, type Session, testDatabase, untilBlocked } from '../support/sql.ts';

const database = await testDatabase();
const db = await database.open();
const takers = await Promise.all(Array.from({ length: 20 }, () => database.open()));
const [a, b] = takers as [Session, Session];

const ids = (rows: { id: bigint }[]) => rows.map((row) => row.id);

async function queue(): Promise<string> {
  return db.register(database.name());
}

describe('20 takers', () => {
  test('over 20,000 tasks take none twice and lose none, whatever their sizes and strategies', async () => {
    const names = await Promise.all(Array.from({ length: 5 }, queue));
    const lanes = names.flatMap((name) => [`${name}:0`, `${name}:1`]);
    const put = new Set<bigint>();
    for (let n = 0; n < 20; n++)
      for (const { id } of await db.put(
        Array.from({ length: 1000 }, (_, i) => ({ queue: names[i % 5] ?? null, level: i % 2, priority: i % 3 })),
      ))
        put.add(id);
    const taken: bigint[] = [];
    const strategies = ['fifo', 'round_robin', 'active_passive', 'sequential'];
    await Promise.all(
      takers.map(async (taker, nth) => {
        for (let n = nth; taken.length < put.size; n++) {
          const strategy = strategies[nth % 4] as string;
          const rows = await taker.take(lanes, { strategy, size: [1, 7, 40, 100][n % 4] as number });
          taken.push(...ids(rows));
          if (strategy === 'sequential') await taker.complete(rows);
        }
      }),
    );
    assert.equal(taken.length, put.size);
    assert.deepEqual(new Set(taken), put);
    assert.equal(await db.value('select count(*)::int from tasklane.ready'), 0);
  });

  test('never have two tasks of a queue running under sequential', async () => {
    const names = await Promise.all(Array.from({ length: 4 }, queue));
    const lanes = names.flatMap((name) => [`${name}:0`, `${name}:1`]);
    const count = 200;
    await db.put(Array.from({ length: count }, (_, i) => ({ queue: names[i % 4] ?? null, level: (i >> 2) % 2 })));
    const running = new Set<string>();
    let done = 0;
    await Promise.all(
      takers.map(async (taker, nth) => {
        const mine = [...lanes.slice(nth % 8), ...lanes.slice(0, nth % 8)];
        while (done < count)
          for (const row of await taker.take(mine, { strategy: 'sequential', size: 2 })) {
            assert.ok(!running.has(row.queue), `${row.queue} has two running tasks`);
            running.add(row.queue);
            // Another statement of this session, so that the others get their chance while the task runs.
            assert.equal(
              await taker.value(
                'select count(*)::int from tasklane.running r join tasklane.queue q using (queue_id) where queue = $1',
                [row.queue],
              ),
              1,
            );
            running.delete(row.queue);
            done++;
            await taker.complete([row]);
          }
      }),
    );
    assert.equal(done, count);
  });

  test('get what was committed first first, each in its own order', async () => {
    const name = await queue();
    const put: bigint[] = [];
    for (let n = 0; n < 100; n++) put.push((await (takers[n % 20] as Session).putOne({ queue: name })).id);
    const taken: bigint[][] = await Promise.all(
      takers.map(async (taker) => {
        const mine: bigint[] = [];
        for (let rows = await taker.take([`${name}:0`]); rows.length > 0; rows = await taker.take([`${name}:0`]))
          mine.push(...ids(rows));
        return mine;
      }),
    );
    const place = new Map(put.map((id, index) => [id, index]));
    for (const mine of taken)
      assert.deepEqual(
        mine,
        [...mine].sort((x, y) => (place.get(x) ?? 0) - (place.get(y) ?? 0)),
      );
    assert.deepEqual(new Set(taken.flat()), new Set(put));
  });
});

for (const strategy of ['fifo', 'active_passive'])
  test(`${strategy}: a take passes over what another holds, without waiting, and a rollback gives it back`, async () => {
    const name = await queue();
    const put = ids(await db.put(Array.from({ length: 5 }, () => ({ queue: name }))));
    const [first, end] = await hold(a, () => a.take([`${name}:0`], { strategy, size: 2 }));
    await b.run("set lock_timeout = '1ms'");
    const second = await b.take([`${name}:0`], { strategy, size: 2 });
    await b.run('reset lock_timeout');
    await end('rollback');
    assert.deepEqual([ids(first), ids(second)], [put.slice(0, 2), put.slice(2, 4)]);
    assert.deepEqual(ids(await b.take([`${name}:0`], { strategy, size: 9 })), [put[0], put[1], put[4]]);
  });

test('sequential: a take passes over a queue that another is about to have running, without waiting', async () => {
  const [one, two] = [await queue(), await queue()];
  await db.put([{ queue: one }, { queue: one, level: 1 }, { queue: two }]);
  const lanes = [`${one}:1`, `${two}:0`];
  const [first, end] = await hold(a, () => a.take([`${one}:0`], { strategy: 'sequential' }));
  await b.run("set lock_timeout = '1ms'");
  const second = await b.take(lanes, { strategy: 'sequential', size: 2 });
  await b.run('reset lock_timeout');
  await end('commit');
  assert.deepEqual([first[0]?.queue, second.map((row) => row.queue)], [one, [two]]);
  assert.deepEqual(await b.take(lanes, { strategy: 'sequential' }), []);
});

test('round_robin: a second take of the same list waits its turn, one of another list does not', async () => {
  const [one, two] = [await queue(), await queue()];
  await db.put([one, one, two, two].map((name) => ({ queue: name })));
  const lanes = [`${one}:0`, `${two}:0`];
  const [first, end] = await hold(a, () => a.takeOne(lanes, { strategy: 'round_robin' }));
  const second = b.takeOne(lanes, { strategy: 'round_robin' });
  await untilBlocked(db, b);
  assert.equal((await db.take([lanes[1] as string, `${one}:5`], { strategy: 'round_robin' })).length, 1);
  await end('commit');
  assert.deepEqual([first.turn, (await second).turn].sort(), [1, 2]);
});

describe('the end of a task', () => {
  async function running(): Promise<bigint> {
    const name = await queue();
    await db.putOne({ queue: name });
    return (await db.takeOne([`${name}:0`])).id;
  }

  test('a cancel that meets a complete is told the outcome', async () => {
    const id = await running();
    const [, end] = await hold(a, () => a.complete([{ id }]));
    const cancel = b.refusals([id]);
    await untilBlocked(db, b);
    await end('commit');
    assert.deepEqual(await cancel, ['succeeded']);
    assert.equal(await db.value('select outcome from tasklane.result where id = $1', [id]), 'succeeded');
  });

  test('a complete that meets a cancel is told so', async () => {
    const id = await running();
    const [refused, end] = await hold(a, () => a.refusals([id]));
    const complete = b.verdicts([{ id }]);
    await untilBlocked(db, b);
    await end('commit');
    assert.deepEqual([refused, await complete], [[null], ['cancelled']]);
    assert.equal(await db.value('select outcome from tasklane.result where id = $1', [id]), 'cancelled');
  });

  test('when the first rolls back the second wins', async () => {
    const id = await running();
    const [, end] = await hold(a, () => a.refusals([id]));
    const complete = b.verdicts([{ id }]);
    await untilBlocked(db, b);
    await end('rollback');
    assert.deepEqual(await complete, ['completed']);
  });

  test('of two completes the first to commit stays; the other is a repeat if it says the same, else refused', async () => {
    for (const [body, verdict] of [
      ['{"n":1}', 'repeated'],
      ['{"n":2}', 'succeeded'],
    ] as const) {
      const id = await running();
      const [first, end] = await hold(a, () => a.verdicts([{ id, body: '{"n":1}' }]));
      const second = b.verdicts([{ id, body }]);
      await untilBlocked(db, b);
      await end('commit');
      assert.deepEqual([first, await second], [['completed'], [verdict]]);
      assert.equal(await db.value('select body::text from tasklane.result where id = $1', [id]), '{"n":1}');
    }
  });

  test('a cancel finds a task that is taken under its eyes', async () => {
    const name = await queue();
    const { id } = await db.putOne({ queue: name });
    const [, end] = await hold(a, () => a.takeOne([`${name}:0`]));
    const cancel = b.refusals([id]);
    await untilBlocked(db, b);
    await end('commit');
    assert.deepEqual(await cancel, [null]);
    assert.equal(await db.state(id), 'cancelled');
    assert.equal(await db.value('select count(*)::int from tasklane.running where id = $1', [id]), 0);
  });

  test('completes and cancels of the same tasks in opposite orders do not deadlock', async () => {
    const list = await Promise.all(Array.from({ length: 40 }, running));
    const [completed, cancelled] = await Promise.all([
      a.verdicts(list.map((id) => ({ id }))),
      b.refusals([...list].reverse()),
    ]);
    assert.equal(
      completed.filter((verdict) => verdict === 'completed').length + cancelled.filter((why) => why === null).length,
      list.length,
    );
  });

  test('a complete that meets the extension of a lease still ends the task', async () => {
    const id = await running();
    const [, end] = await hold(a, () =>
      a.run('update tasklane.running set lease_until = now() + interval $$1 hour$$ where id = $1', [id]),
    );
    const complete = b.verdicts([{ id }]);
    await untilBlocked(db, b);
    await end('commit');
    assert.deepEqual(await complete, ['completed']);
    assert.equal(await db.value('select count(*)::int from tasklane.running where id = $1', [id]), 0);
  });

  test('a cancel that meets the extension of a lease still ends the task', async () => {
    const id = await running();
    const [, end] = await hold(a, () =>
      a.run('update tasklane.running set lease_until = now() + interval $$1 hour$$ where id = $1', [id]),
    );
    const cancel = b.refusals([id]);
    await untilBlocked(db, b);
    await end('commit');
    assert.deepEqual(await cancel, [null]);
    assert.equal(await db.value('select count(*)::int from tasklane.running where id = $1', [id]), 0);
  });

  test('a withdrawal locks in the order of ids, whatever order it is given', async () => {
    const list = (await Promise.all([running(), running()])).sort((x, y) => Number(x - y)) as [bigint, bigint];
    const [, end] = await hold(a, () => a.complete([{ id: list[0] }]));
    const withdrawal = b.rows("select * from tasklane.withdraw_tasks($1, 'cancelled')", [[list[1], list[0]]]);
    await untilBlocked(db, b);
    await a.run("set lock_timeout = '1ms'");
    const second = await a.verdicts([{ id: list[1] }]);
    await a.run('reset lock_timeout');
    await end('commit');
    assert.deepEqual([second, await withdrawal], [['completed'], []]);
  });
});

test('a put that commits late is seen without a hint, and with one that was lowered', async () => {
  const name = await queue();
  await db.putOne({ queue: name });
  await db.takeOne([`${name}:0`]);
  const [late, end] = await hold(a, () => a.putOne({ queue: name }));
  await b.put([{ queue: name }, { queue: name }]);
  const seen = await b.takeOne([`${name}:0`]);
  const hint = { hintRanks: [seen.rank], hintIds: [seen.id] };
  await end('commit');
  const beyond = await b.takeOne([`${name}:0`], hint);
  assert.ok(late.id < seen.id && seen.id < beyond.id);
  assert.deepEqual(await b.take([`${name}:0`], hint), []);
  assert.equal((await b.takeOne([`${name}:0`], { hintRanks: [late.rank], hintIds: [late.id] })).id, late.id);
});

test('a lane that two put to at once for the first time is one lane', async () => {
  const name = await queue();
  const [first, end] = await hold(a, () => a.putOne({ queue: name, level: 4 }));
  const second = b.putOne({ queue: name, level: 4 });
  await untilBlocked(db, b);
  await end('commit');
  assert.equal((await second).lane, first.lane);
  assert.equal((await db.take([`${name}:4`], { size: 9 })).length, 2);
});

describe('events', () => {
  const emit = (session: Session, id: bigint, count: number) =>
    session.rows<{ verdict: string; seq: number }>(
      `select verdict, seq from tasklane.emit_events(array_fill($1::bigint, array[$2::int]), array_fill(null::int, array[$2]),
         array_fill(null::text, array[$2]), array_fill('chunk'::text, array[$2]), array_fill('1'::text, array[$2]))`,
      [id, count],
    );

  async function running(): Promise<bigint> {
    const name = await queue();
    await db.putOne({ queue: name });
    return (await db.takeOne([`${name}:0`])).id;
  }

  test('two sessions number the events of a task in turn', async () => {
    const id = await running();
    const [first, end] = await hold(a, () => emit(a, id, 2));
    const second = emit(b, id, 2);
    await untilBlocked(db, b);
    await end('commit');
    assert.deepEqual(
      [...first, ...(await second)].map((row) => row.seq),
      [1, 2, 3, 4],
    );
  });

  test('ten sessions number without gap or repeat, and a reader never sees a gap', async () => {
    const id = await running();
    const seen: number[] = [];
    let writing = true;
    const reader = (async () => {
      while (writing)
        seen.push(
          ...(
            await db.rows<{ seq: number }>('select seq from tasklane.read_events(array[$1::bigint], array[$2::int])', [
              id,
              seen.length,
            ])
          ).map((row) => row.seq),
        );
    })();
    await Promise.all(
      takers.slice(0, 10).map(async (session) => {
        for (let n = 0; n < 20; n++) await emit(session, id, 1 + (n % 3));
      }),
    );
    writing = false;
    await reader;
    const all = await db.value('select array_agg(seq order by seq) from tasklane.task_event where id = $1', [id]);
    assert.deepEqual(
      all,
      Array.from({ length: 390 }, (_, n) => n + 1),
    );
    assert.deepEqual(
      seen,
      seen.map((_, n) => n + 1),
    );
  });

  test('an event that meets the end of its task is refused', async () => {
    const id = await running();
    const [, end] = await hold(a, () => a.complete([{ id }]));
    const event = emit(b, id, 1);
    await untilBlocked(db, b);
    await end('commit');
    assert.deepEqual(
      (await event).map((row) => row.verdict),
      ['succeeded'],
    );
  });
});
