import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { hold, type Session, testDatabase, untilBlocked } from '../support/sql.ts';

const database = await testDatabase();
const db = await database.open();
const [a, b, c] = (await Promise.all([database.open(), database.open(), database.open()])) as [
  Session,
  Session,
  Session,
];

const ids = (rows: { id: bigint }[]) => rows.map((row) => row.id);
const queue = (settings = {}) => db.register(database.name(), undefined, settings);
const lane = (name: string) => [`${name}:0`];
const HASH = { a: 'aa'.repeat(32), b: 'bb'.repeat(32) };

async function waiting(settings = {}): Promise<{ id: bigint; lanes: string[] }> {
  const name = await queue(settings);
  return { id: (await db.putOne({ queue: name })).id, lanes: lane(name) };
}

async function running(settings = {}): Promise<{ id: bigint; lanes: string[] }> {
  const task = await waiting(settings);
  await db.takeOne(task.lanes);
  return task;
}

/** A running task whose lease is over, which no sweep has seen yet. */
async function lapsed(settings = {}): Promise<{ id: bigint; lanes: string[] }> {
  const task = await running(settings);
  await db.lapse([task.id]);
  return task;
}

/** A deferred task whose time has come, which no sweep has seen yet. */
async function due(): Promise<{ id: bigint; lanes: string[] }> {
  const name = await queue();
  const { id } = await db.putOne({ queue: name, options: { delay_seconds: 60 } });
  await db.lapse([id]);
  return { id, lanes: lane(name) };
}

async function dead(): Promise<{ id: bigint; lanes: string[] }> {
  const task = await running({ max_attempts: 1 });
  await db.release([{ id: task.id }]);
  return task;
}

/** Where a task's rows are, with its attempt. */
async function places(id: bigint): Promise<string[]> {
  const rows = await db.rows<{ place: string }>(
    `select 'ready ' || attempt as place from tasklane.ready where id = $1
     union all select 'running ' || attempt from tasklane.running where id = $1
     union all select 'deferred ' || attempt from tasklane.deferred where id = $1
     union all select outcome || ' ' || attempt from tasklane.result where id = $1`,
    [id],
  );
  return rows.map((row) => row.place);
}

/** `first` in a transaction that ends with `end` when `second` waits for it; gives what both were told. */
async function inTurn<First, Second>(
  first: (session: Session) => Promise<First>,
  second: (session: Session) => Promise<Second>,
  end = 'commit',
): Promise<[First, Second]> {
  const [one, finish] = await hold(a, () => first(a));
  let settled = false;
  const two = second(b).finally(() => {
    settled = true;
  });
  while (!settled && !(await db.value<boolean>('select cardinality(pg_blocking_pids($1)) > 0', [b.pid])));
  const waited = !settled;
  await finish(end);
  const told = await two;
  assert.ok(waited, 'the second did not wait for the first');
  return [one, told];
}

/** `first` in a transaction that ends with `end` after `second`, which must not wait for it; gives what both were told. */
async function beside<First, Second>(
  first: (session: Session) => Promise<First>,
  second: (session: Session) => Promise<Second>,
  end = 'commit',
): Promise<[First, Second]> {
  const [one, finish] = await hold(a, () => first(a));
  await b.run("set lock_timeout = '1ms'");
  try {
    return [one, await second(b)];
  } finally {
    await finish(end);
    await b.run('reset lock_timeout');
  }
}

const complete = (id: bigint) => (session: Session) => session.verdicts([{ id }]);
const cancel = (id: bigint) => (session: Session) => session.refusals([id]);
const release = (id: bigint) => async (session: Session) =>
  (await session.release([{ id, delay: 0 }])).map((row) => [row.verdict, row.lane !== null]);
const heartbeat = (id: bigint) => async (session: Session) =>
  (await session.heartbeat([{ id }])).map((row) => row.verdict);
const prioritise = (id: bigint) => async (session: Session) =>
  (await session.setPriorities([id], [90])).map((row) => row.refusal);
const replay = (id: bigint) => async (session: Session) => (await session.replay([id])).map((row) => row.refusal);
const giveBack = (id: bigint) => async (session: Session) =>
  ids(await session.rows<{ id: bigint }>('select * from tasklane.return_tasks(array[$1::bigint], array[1])', [id]));
const expire = (id: bigint) => async (session: Session) =>
  ids(await session.rows<{ id: bigint }>('select * from tasklane.expire_tasks(array[$1::bigint])', [id]));
const purge = (session: Session) => session.value<number>('select tasklane.purge_dead()');
/** What a sweep did to one task. */
const sweep = (id: bigint) => async (session: Session) =>
  (await session.sweep()).filter((row) => row.id === id).map((row) => row.outcome);
const take = (lanes: string[]) => async (session: Session) => ids(await session.take(lanes));

describe('takes', () => {
  test('of three takers whose second rolls back nobody gets what another has, and what it had is taken again as a first attempt', async () => {
    const name = await queue();
    const put = ids(await db.put(Array.from({ length: 6 }, () => ({ queue: name }))));
    const [one, endOne] = await hold(a, () => a.take(lane(name), { size: 2 }));
    const [two, endTwo] = await hold(b, () => b.take(lane(name), { size: 2 }));
    const three = await c.take(lane(name), { size: 2 });
    await endTwo('rollback');
    await endOne('commit');
    assert.deepEqual([ids(one), ids(two), ids(three)], [put.slice(0, 2), put.slice(2, 4), put.slice(4)]);
    const again = await c.take(lane(name), { size: 9 });
    assert.deepEqual(
      again.map((row) => [row.id, row.attempt]),
      put.slice(2, 4).map((id) => [id, 1]),
    );
  });

  test('that began before a deadline are passed over by a sweep, and the next sweep ends them', async () => {
    const { id, lanes } = await waiting();
    await a.run('begin');
    await a.value('select now()');
    await db.age([id], 'clock_timestamp()');
    assert.deepEqual(await take(lanes)(a), [id]);
    assert.deepEqual(await sweep(id)(b), []);
    await a.run('commit');
    assert.deepEqual(await sweep(id)(b), ['expired']);
    assert.deepEqual([await places(id), await complete(id)(a)], [['expired 1'], ['expired']]);
  });

  test('that began before a deadline are found by who expires the task meanwhile', async () => {
    const { id, lanes } = await waiting();
    await a.run('begin');
    await a.value('select now()');
    await db.age([id], 'clock_timestamp()');
    assert.deepEqual(await take(lanes)(a), [id]);
    const expired = expire(id)(b);
    await untilBlocked(db, b);
    await a.run('commit');
    assert.deepEqual(await expired, [id]);
    assert.deepEqual(await places(id), ['expired 1']);
  });

  const ends: Record<string, (id: bigint) => (session: Session) => Promise<unknown[]>> = {
    expire_tasks: expire,
    sweep_due: sweep,
  };
  for (const [what, end] of Object.entries(ends))
    test(`that began before a deadline pass over what ${what} is ending`, async () => {
      const { id, lanes } = await waiting();
      await b.run('begin');
      await b.value('select now()');
      await db.age([id], 'clock_timestamp()');
      const [ended, taken] = await beside(end(id), take(lanes));
      await b.run('commit');
      assert.deepEqual([ended.length, taken], [1, []]);
      assert.deepEqual(await places(id), ['expired 0']);
    });

  test('pass over a task whose priority is being changed, and one that another takes is not changed', async () => {
    const first = await waiting();
    assert.deepEqual(await beside(prioritise(first.id), take(first.lanes)), [[null], []]);
    assert.deepEqual(await take(first.lanes)(b), [first.id]);
    const second = await waiting();
    assert.deepEqual(await inTurn(take(second.lanes), prioritise(second.id)), [[second.id], ['running']]);
    assert.deepEqual(await places(second.id), ['running 1']);
    const third = await waiting();
    assert.deepEqual(await inTurn(take(third.lanes), prioritise(third.id), 'rollback'), [[third.id], [null]]);
    assert.equal((await db.takeOne(third.lanes)).rank, 10);
  });

  test('at max_running take no more than there is room for, however many come at once', async () => {
    const name = await queue({ max_running: 2 });
    await db.put(Array.from({ length: 9 }, () => ({ queue: name })));
    const [one, end] = await hold(a, () => a.take(lane(name)));
    const two = b.take(lane(name), { size: 5 });
    const three = c.take(lane(name), { size: 5 });
    await untilBlocked(db, b);
    await untilBlocked(db, c);
    await end('commit');
    assert.deepEqual([one.length, (await two).length + (await three).length], [1, 1]);
    assert.equal(await db.value('select running::int from tasklane.queue_stats where queue = $1', [name]), 2);
  });

  test('at max_running get the room of a take that rolls back, and of a complete that commits first', async () => {
    const name = await queue({ max_running: 1 });
    const put = ids(await db.put([{ queue: name }, { queue: name }]));
    assert.deepEqual(await inTurn(take(lane(name)), take(lane(name)), 'rollback'), [[put[0]], [put[0]]]);
    const first = put[0] as bigint;
    assert.deepEqual(await beside(complete(first), take(lane(name))), [['completed'], []]);
    assert.deepEqual(await take(lane(name))(b), [put[1]]);
  });
});

describe('a lapse', () => {
  test('passes over a task that is being completed, and a complete that meets it is refused', async () => {
    const first = await lapsed();
    assert.deepEqual(await beside(complete(first.id), sweep(first.id)), [['completed'], []]);
    assert.deepEqual(await sweep(first.id)(b), []);
    assert.deepEqual(await places(first.id), ['succeeded 1']);
    const second = await lapsed();
    assert.deepEqual(await inTurn(sweep(second.id), complete(second.id)), [['waiting'], ['waiting']]);
    assert.deepEqual(await places(second.id), ['ready 1']);
    const third = await lapsed();
    assert.deepEqual(await inTurn(sweep(third.id), complete(third.id), 'rollback'), [['waiting'], ['completed']]);
    assert.deepEqual(await places(third.id), ['succeeded 1']);
  });

  test('passes over a task that is being cancelled, and a cancel that meets it ends the task where it waits', async () => {
    const first = await lapsed();
    assert.deepEqual(await beside(cancel(first.id), sweep(first.id)), [[null], []]);
    assert.deepEqual(await places(first.id), ['cancelled 1']);
    const second = await lapsed();
    assert.deepEqual(await inTurn(sweep(second.id), cancel(second.id)), [['waiting'], [null]]);
    assert.deepEqual(await places(second.id), ['cancelled 1']);
    const last = await lapsed({ max_attempts: 1 });
    assert.deepEqual(await inTurn(sweep(last.id), cancel(last.id)), [['dead'], ['dead']]);
    assert.deepEqual(await places(last.id), ['dead 1']);
  });

  test('passes over a task whose worker gives a sign of life, and a sign that meets it is lost', async () => {
    const first = await lapsed();
    assert.deepEqual(await beside(heartbeat(first.id), sweep(first.id)), [['extended'], []]);
    assert.deepEqual(await sweep(first.id)(b), []);
    assert.deepEqual(await places(first.id), ['running 1']);
    const second = await lapsed();
    assert.deepEqual(await inTurn(sweep(second.id), heartbeat(second.id)), [['waiting'], ['lost']]);
    assert.deepEqual(await places(second.id), ['ready 1']);
  });

  test('and a release of the same task give it back once', async () => {
    const first = await lapsed();
    assert.deepEqual(await beside(release(first.id), sweep(first.id)), [[['waiting', true]], []]);
    assert.deepEqual(await places(first.id), ['ready 1']);
    const second = await lapsed();
    assert.deepEqual(await inTurn(sweep(second.id), release(second.id)), [['waiting'], [['waiting', false]]]);
    assert.deepEqual(await places(second.id), ['ready 1']);
    assert.equal(
      await db.value('select count(*)::int from tasklane.task_attempt where id = any($1)', [[first.id, second.id]]),
      2,
    );
  });

  test('is swept by one of two servers; the other is not kept waiting', async () => {
    const { id } = await lapsed();
    const [first, second] = await beside(
      (session) => session.sweep(),
      (session) => session.sweep(),
    );
    assert.deepEqual([first.filter((row) => row.id === id).length, second], [1, []]);
  });
});

describe('a release', () => {
  test('and a complete of the same attempt: the second is told', async () => {
    const first = await running();
    assert.deepEqual(await inTurn(release(first.id), complete(first.id)), [[['waiting', true]], ['waiting']]);
    assert.deepEqual(await places(first.id), ['ready 1']);
    const second = await running();
    assert.deepEqual(await inTurn(complete(second.id), release(second.id)), [['completed'], [['succeeded', false]]]);
    assert.deepEqual(await places(second.id), ['succeeded 1']);
  });

  test('that comes second is refused, though the task is where it wanted it', async () => {
    for (const [settings, delay, verdict] of [
      [{}, 0, 'waiting'],
      [{}, 60, 'deferred'],
      [{ max_attempts: 1 }, 0, 'dead'],
    ] as const) {
      const { id } = await running(settings);
      const [[first], [second]] = await inTurn(
        (session) => session.release([{ id, delay }]),
        (session) => session.release([{ id, delay }]),
      );
      assert.deepEqual([first?.verdict, typeof first?.lane], [verdict, 'string']);
      assert.deepEqual([second?.verdict, second?.lane], [verdict, null]);
    }
  });

  test('and a cancel: the task is cancelled, whichever is first', async () => {
    const first = await running();
    assert.deepEqual(await inTurn(release(first.id), cancel(first.id)), [[['waiting', true]], [null]]);
    const second = await running();
    assert.deepEqual(await inTurn(cancel(second.id), release(second.id)), [[null], [['cancelled', false]]]);
    assert.deepEqual([await places(first.id), await places(second.id)], [['cancelled 1'], ['cancelled 1']]);
  });

  test('that meets the extension of the lease gives the task back', async () => {
    const { id } = await running();
    assert.deepEqual(await inTurn(heartbeat(id), release(id)), [['extended'], [['waiting', true]]]);
    assert.deepEqual(await places(id), ['ready 1']);
  });
});

describe('a return of what was not begun', () => {
  test('and a complete: the second is told', async () => {
    const first = await running();
    assert.deepEqual(await inTurn(giveBack(first.id), complete(first.id)), [[first.id], ['waiting']]);
    assert.deepEqual(await places(first.id), ['ready 0']);
    const second = await running();
    assert.deepEqual(await inTurn(complete(second.id), giveBack(second.id)), [['completed'], []]);
    assert.deepEqual(await places(second.id), ['succeeded 1']);
  });

  test('that meets the extension of the lease gives the task back', async () => {
    const { id } = await running();
    assert.deepEqual(await inTurn(heartbeat(id), giveBack(id)), [['extended'], [id]]);
    assert.deepEqual(await places(id), ['ready 0']);
  });
});

describe('a cancel', () => {
  test('two completes and a cancel: one of the three ends the task, the others are told how', async () => {
    const { id } = await running();
    const [first, end] = await hold(a, () => complete(id)(a));
    const second = cancel(id)(b);
    const third = c.verdicts([{ id, body: '"other"' }]);
    await untilBlocked(db, b);
    await untilBlocked(db, c);
    await end('commit');
    assert.deepEqual([first, await second, await third], [['completed'], ['succeeded'], ['succeeded']]);
    assert.deepEqual(await places(id), ['succeeded 1']);
  });

  test('and a sign of life: the worker is told of the cancel, or the cancel waits for the lease to be extended', async () => {
    const first = await running();
    assert.deepEqual(await inTurn(cancel(first.id), heartbeat(first.id)), [[null], ['cancelled']]);
    const second = await running();
    assert.deepEqual(await inTurn(heartbeat(second.id), cancel(second.id)), [['extended'], [null]]);
    assert.deepEqual([await places(first.id), await places(second.id)], [['cancelled 1'], ['cancelled 1']]);
  });

  test('finds a deferred task that comes to wait under its eyes, and a sweep passes over one that is being cancelled', async () => {
    const first = await due();
    assert.deepEqual(await inTurn(sweep(first.id), cancel(first.id)), [['waiting'], [null]]);
    const second = await due();
    assert.deepEqual(await beside(cancel(second.id), sweep(second.id)), [[null], []]);
    assert.deepEqual([await places(first.id), await places(second.id)], [['cancelled 0'], ['cancelled 0']]);
  });

  test('and a change of priority: the task is cancelled, whichever is first', async () => {
    const first = await waiting();
    assert.deepEqual(await inTurn(prioritise(first.id), cancel(first.id)), [[null], [null]]);
    const second = await waiting();
    assert.deepEqual(await inTurn(cancel(second.id), prioritise(second.id)), [[null], ['cancelled']]);
    assert.deepEqual([await places(first.id), await places(second.id)], [['cancelled 0'], ['cancelled 0']]);
  });

  test('finds a task that has aged and is taken under its eyes', async () => {
    const { id, lanes } = await aged();
    assert.deepEqual(await inTurn(take(lanes), cancel(id)), [[id], [null]]);
    assert.deepEqual(await places(id), ['cancelled 1']);
  });
});

/** A task that waits a rank above the one it was put with. */
async function aged(): Promise<{ id: bigint; lanes: string[] }> {
  const task = await waiting({ aging_seconds: 60 });
  await ages(task.id);
  assert.deepEqual(await sweep(task.id)(db), ['moved']);
  return task;
}

const ages = (id: bigint) =>
  db.run("update tasklane.ready set ages_at = now() - interval '1 second' where id = $1", [id]);

describe('a change of priority', () => {
  test('finds a deferred task that comes to wait under its eyes', async () => {
    const { id, lanes } = await due();
    assert.deepEqual(await inTurn(sweep(id), prioritise(id)), [['waiting'], [null]]);
    const taken = await db.takeOne(lanes);
    assert.deepEqual([taken.id, taken.rank], [id, 10]);
  });

  test('finds a task that ages under its eyes, for the first time and again', async () => {
    for (const task of [await waiting({ aging_seconds: 60 }), await aged()]) {
      await ages(task.id);
      assert.deepEqual(await inTurn(sweep(task.id), prioritise(task.id)), [['moved'], [null]]);
      assert.equal((await db.takeOne(task.lanes)).rank, 10);
    }
  });

  test('that comes second is the one in force', async () => {
    const { id, lanes } = await waiting();
    const told = await inTurn((session) => session.setPriorities([id], [50]), prioritise(id));
    assert.deepEqual([told[0].map((row) => row.rank), told[1]], [[50], [null]]);
    assert.equal((await db.takeOne(lanes)).rank, 10);
  });

  test('is passed over by the sweep that would let the task age', async () => {
    const { id } = await waiting({ aging_seconds: 60 });
    await ages(id);
    assert.deepEqual(await beside(prioritise(id), sweep(id)), [[null], []]);
    assert.equal(await db.value('select rank::int from tasklane.ready where id = $1', [id]), 10);
  });
});

describe('dead tasks', () => {
  test('are replayed once, by whoever is first', async () => {
    const first = await dead();
    assert.deepEqual(await inTurn(replay(first.id), replay(first.id)), [[null], ['waiting']]);
    assert.deepEqual(await places(first.id), ['ready 0']);
    const second = await dead();
    assert.deepEqual(await inTurn(replay(second.id), replay(second.id), 'rollback'), [[null], [null]]);
    assert.deepEqual(await places(second.id), ['ready 0']);
  });

  test('that are replayed are not purged, and those that are purged are not replayed', async () => {
    await purge(db);
    const first = await dead();
    assert.deepEqual(await inTurn(replay(first.id), purge), [[null], 0]);
    assert.deepEqual(await places(first.id), ['ready 0']);
    const second = await dead();
    assert.deepEqual(await inTurn(purge, replay(second.id)), [1, ['unknown']]);
    assert.deepEqual(await places(second.id), []);
  });
});

describe('puts', () => {
  const keyed = (name: string, key: string, body: keyof typeof HASH = 'a') => ({
    queue: name,
    options: { idempotency_key: `${name} ${key}`, body_hash: HASH[body] },
  });
  const put =
    (...items: ReturnType<typeof keyed>[]) =>
    async (session: Session) =>
      (await session.tryPut(items)).map((row) => row.code ?? row.state);

  test('with one key put one task: the second repeats the first, or puts where it rolls back', async () => {
    const name = await queue();
    assert.deepEqual(await inTurn(put(keyed(name, 'k')), put(keyed(name, 'k'))), [['waiting'], ['repeated']]);
    assert.deepEqual(await inTurn(put(keyed(name, 'l')), put(keyed(name, 'l', 'b'))), [['waiting'], ['TL409']]);
    assert.deepEqual(await inTurn(put(keyed(name, 'm')), put(keyed(name, 'm')), 'rollback'), [
      ['waiting'],
      ['waiting'],
    ]);
    assert.equal((await db.take(lane(name), { size: 9 })).length, 3);
  });

  test('with two keys in opposite orders, and a third with both, wait for each other in one order', async () => {
    const name = await queue();
    const [first, end] = await hold(a, () => put(keyed(name, 'k'))(a));
    const second = put(keyed(name, 'l'), keyed(name, 'k'))(b);
    await untilBlocked(db, b);
    const third = put(keyed(name, 'k'), keyed(name, 'l'))(c);
    await untilBlocked(db, c);
    await end('commit');
    const told = [first, await second, await third].flat();
    assert.deepEqual(told.sort(), ['repeated', 'repeated', 'repeated', 'waiting', 'waiting']);
    assert.equal((await db.take(lane(name), { size: 9 })).length, 2);
  });

  test('at max_depth put no more than there is room for, and what rolls back leaves its room', async () => {
    const name = await queue({ max_depth: 2 });
    const one = { queue: name };
    const told = (count: number) => async (session: Session) =>
      (await session.tryPut(Array.from({ length: count }, () => one))).map((row) => row.code);
    assert.deepEqual(await inTurn(told(2), told(1), 'rollback'), [[null, null], [null]]);
    assert.deepEqual(await inTurn(told(1), told(1)), [[null], ['TL429']]);
    assert.equal((await db.take(lane(name), { size: 9 })).length, 2);
  });

  test('at max_depth of two queues, in opposite orders, wait for each other in one order', async () => {
    const [one, two] = [await queue({ max_depth: 1 }), await queue({ max_depth: 1 })];
    const told = (names: string[]) => async (session: Session) =>
      (await session.tryPut(names.map((name) => ({ queue: name })))).map((row) => row.code);
    const [first, end] = await hold(a, () => told([one])(a));
    const second = told([two, one])(b);
    const third = told([one, two])(c);
    await untilBlocked(db, b);
    await untilBlocked(db, c);
    await end('commit');
    const codes = [first, await second, await third].flat();
    assert.equal(codes.filter((code) => code === null).length, 2);
  });
});

describe('while a snapshot is held', () => {
  test('who holds it sees one state of everything, and what went back meanwhile is taken by others', async () => {
    const { id, lanes } = await lapsed();
    const look = (session: Session) =>
      session.rows(
        `select s.status, s.attempt, q.waiting::int, q.running::int from tasklane.task_status s
         join tasklane.queue_stats q using (lane_id) where s.id = $1`,
        [id],
      );
    await a.run('begin isolation level repeatable read');
    const before = await look(a);
    for (let attempt = 2; attempt <= 3; attempt++) {
      assert.deepEqual(await sweep(id)(b), ['waiting']);
      // From where it says that it waits, as a server's next take does.
      const taken = await b.takeOne(lanes, { hintRanks: [95], hintIds: [id] });
      assert.deepEqual([taken.id, taken.attempt], [id, attempt]);
      await b.lapse([id]);
    }
    assert.deepEqual(await look(a), before);
    await a.run('commit');
    assert.deepEqual(before, [{ status: 'running', attempt: 1, waiting: 0, running: 1 }]);
    assert.deepEqual(await look(a), [{ status: 'running', attempt: 3, waiting: 0, running: 1 }]);
  });
});
