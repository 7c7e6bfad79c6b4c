import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { code, type Item, type Session, testDatabase, untilBlocked } from '../support/sql.ts';

const database = await testDatabase();
const [db, a, b] = (await Promise.all([database.open(), database.open(), database.open()])) as [
  Session,
  Session,
  Session,
];
const TABLES = ['task', 'result', 'task_event', 'task_attempt'];
const HOUR_S = 3600;
const DAY_S = 86_400;

beforeEach(async () => {
  for (const table of TABLES) for (const name of await partitionsOf(table)) await db.run(`drop table tasklane.${name}`);
  await db.run(`truncate tasklane.task, tasklane.result, tasklane.task_event, tasklane.task_attempt, tasklane.ready, tasklane.running,
    tasklane.deferred, tasklane.kept, tasklane.callback_delivery, tasklane.idempotency_key, tasklane.lane_tally,
    tasklane.lane, tasklane.channel, tasklane.queue, tasklane.schedule restart identity cascade`);
});

const partitionsOf = (table: string) =>
  db
    .rows<{ name: string }>(
      `select c.relname as name from pg_inherits i join pg_class c on c.oid = i.inhrelid
       where i.inhparent = $1::regclass and c.relname !~ 'default' order by 1`,
      [`tasklane.${table}`],
    )
    .then((rows) => rows.map((row) => row.name));

/** A queue that has been there for long. */
async function register(settings: object = {}): Promise<string> {
  const queue = await db.register(database.name(), '/v1/chat/completions', settings);
  await lookAgain();
  return queue;
}

/** Lets the next removal look at everything. */
const lookAgain = () => db.run("update tasklane.queue set retained_from = '-infinity'");

const yymmdd = (daysAgo: number) =>
  db.value<string>("select to_char(now() at time zone 'UTC' - make_interval(days => $1), 'YYYYMMDD')", [daysAgo]);

/** Gives a past day its partitions. */
async function makeDay(daysAgo: number, tables = TABLES): Promise<string> {
  const day = await yymmdd(daysAgo);
  const [from, to] = await db.value<[bigint, bigint]>(
    `select array[tasklane.first_id_of(d at time zone 'UTC'), tasklane.first_id_of((d + interval '1 day') at time zone 'UTC')]
     from (select $1::timestamp as d) d`,
    [day],
  );
  for (const table of tables)
    await db.run(
      `create table tasklane.${table}_${day} partition of tasklane.${table} for values from (${from}) to (${to})`,
    );
  return day;
}

/** Makes tasks older, wherever their rows are; gives their new ids. */
async function age(ids: readonly bigint[], seconds: number): Promise<bigint[]> {
  const shift = (column: string) => `${column} = ${column} - ${BigInt(seconds) * 10_000_000_000n}`;
  for (const table of ['task', 'result', 'ready', 'running', 'deferred', 'task_event', 'task_attempt', 'kept'])
    await db.run(`update tasklane.${table} set ${shift('id')} where id = any($1)`, [ids]);
  await db.run(`update tasklane.callback_delivery set ${shift('task_id')} where task_id = any($1)`, [ids]);
  const moved = ids.map((id) => id - BigInt(seconds) * 10_000_000_000n);
  for (const table of ['result', 'kept'])
    await db.run(
      `update tasklane.${table} set completed_at = completed_at - make_interval(secs => $2) where id = any($1)`,
      [moved, seconds],
    );
  return moved;
}

/** Puts tasks that a worker has reported on, released once and answered, and makes them older. */
async function ended(queue: string, count: number, secondsAgo = 0, more: Item = {}): Promise<bigint[]> {
  const put = await db.put(Array.from({ length: count }, () => ({ queue, ...more })));
  const ids = put.map((row) => row.id);
  await db.take([`${queue}:0`], { size: count });
  await db.run("select tasklane.emit_event(t.task_id, 'chunk') from unnest($1::text[]) t(task_id)", [
    put.map((row) => row.task_id),
  ]);
  await db.run(
    `insert into tasklane.task_attempt (id, attempt, taken_at, ended_at, reason) select id, 1, now(), now(), 'released' from unnest($1::bigint[]) id`,
    [ids],
  );
  assert.deepEqual(new Set(await db.verdicts(put)), new Set(['completed']));
  return age(ids, secondsAgo);
}

async function endedOne(queue: string, secondsAgo = 0, more: Item = {}): Promise<bigint> {
  return (await ended(queue, 1, secondsAgo, more))[0] as bigint;
}

/** How many rows each table has of the tasks. */
const rowsOf = (ids: readonly bigint[]) =>
  db.value<number[]>(
    `select array[${TABLES.map((table) => `(select count(*)::int from tasklane.${table} where id = any($1))`).join(', ')}]`,
    [ids],
  );
const there = (ids: readonly bigint[]) =>
  db
    .rows<{ id: bigint }>('select id from tasklane.task where id = any($1) order by id', [ids])
    .then((rows) => rows.map((row) => row.id));
const kept = () => db.value<number>('select count(*)::int from tasklane.kept');

/** The day that a call dropped, as YYYYMMDD. */
const drop = (session = db) =>
  session.value<string | null>("select to_char(tasklane.drop_old_partitions(), 'YYYYMMDD')");
const settle = (error: string | null = null) =>
  db.run(
    `select tasklane.settle_callbacks(array_agg(delivery_id), array_agg(200), array_agg($1::text)) from tasklane.callback_delivery`,
    [error],
  );
async function drain(call: string, session = db): Promise<number> {
  for (let slices = 1; ; slices++) if (!(await session.value<boolean>(`select tasklane.${call}`))) return slices;
}
const removeFinished = (limit = 2000) => drain(`remove_finished(${limit})`);
const trim = (limit = 2000) => drain(`trim_kept(${limit})`);

/** What a replay does: the task waits again, in a new life. */
async function replay(session: Session, id: bigint): Promise<number> {
  const rows = await session.rows(
    `with gone as (delete from tasklane.result where id = $1 returning id)
     insert into tasklane.ready (id, expires_at, lane_id, attempt, rank)
     select t.id, now() + interval '1 day', t.lane_id, 0, 7 from gone join tasklane.task t using (id) returning id`,
    [id],
  );
  return rows.length;
}

describe('a day', () => {
  test('whose tasks have all ended long ago goes whole, the oldest first; today and younger ends stay', async () => {
    const queue = await register();
    const [older, old, young] = [await makeDay(20), await makeDay(10), await makeDay(6)];
    await db.run('select tasklane.make_partitions()');
    const gone = [await endedOne(queue, 20 * DAY_S), await endedOne(queue, 10 * DAY_S)];
    const stays = [await endedOne(queue, 6 * DAY_S), await endedOne(queue)];
    assert.deepEqual([await drop(), await drop(), await drop()], [older, old, null]);
    assert.deepEqual(await rowsOf(gone), [0, 0, 0, 0]);
    assert.deepEqual(await rowsOf(stays), [2, 2, 2, 2]);
    for (const table of TABLES) {
      const names = await partitionsOf(table);
      assert.equal(names.length, 9, names.join());
      assert.equal(names[0], `${table}_${young}`);
    }
    assert.deepEqual(await db.verdicts([{ id: gone[0] as bigint }]), ['unknown']);
    assert.equal(
      await db.value('select total_completed_cnt::int from tasklane.queue_stats where queue = $1', [queue]),
      4,
    );
  });

  test('without any task goes, however long queues keep theirs', async () => {
    await register({ retention_seconds: 315_360_000 });
    const day = await makeDay(1);
    assert.equal(await drop(), day);
  });

  const LIVES: Record<string, (queue: string) => Promise<bigint>> = {
    waiting: async (queue) => (await db.putOne({ queue })).id,
    'waiting with another priority': async (queue) => {
      const { id } = await db.putOne({ queue });
      await db.run('update tasklane.ready set rank = 3 where id = $1', [id]);
      return id;
    },
    running: async (queue) => {
      await db.putOne({ queue });
      return (await db.takeOne([`${queue}:0`])).id;
    },
    deferred: async (queue) => {
      const { id } = await db.putOne({ queue });
      await db.run(`with gone as (delete from tasklane.ready where id = ${id} returning *)
        insert into tasklane.deferred (id, expires_at, run_at, lane_id, attempt, rank)
        select id, expires_at, now() + interval '1 hour', lane_id, attempt, rank from gone`);
      return id;
    },
    'replayed after it had ended': async (queue) => {
      const id = await endedOne(queue);
      assert.equal(await replay(db, id), 1);
      return id;
    },
    'in no place at all': async (queue) => {
      const { id } = await db.putOne({ queue });
      await db.run('delete from tasklane.ready where id = $1', [id]);
      return id;
    },
  };
  for (const [how, make] of Object.entries(LIVES))
    test(`stays while a task of it is ${how}`, async () => {
      const queue = await register();
      await makeDay(10);
      const [id] = await age([await make(queue)], 10 * DAY_S);
      await endedOne(await register(), 10 * DAY_S);
      assert.equal(await drop(), null);
      assert.deepEqual(await there([id as bigint]), [id]);
    });

  test('stays while a callback of it is to be sent', async () => {
    const queue = await register();
    const day = await makeDay(10);
    await endedOne(queue, 10 * DAY_S, { callbackUrl: 'http://127.0.0.1/' });
    assert.equal(await drop(), null);
    await settle();
    assert.equal(await drop(), day);
    assert.deepEqual(await db.rows('select * from tasklane.list_callbacks()'), []);
  });

  test('stays as long as the longest retention of all queues, deleted ones among them while they can have tasks', async () => {
    const [short, long] = [await register({ retention_seconds: HOUR_S }), await register()];
    const day = await makeDay(5);
    await endedOne(short, 5 * DAY_S);
    assert.equal(await drop(), null);
    await db.run('select tasklane.delete_queue($1)', [long]);
    assert.equal(await drop(), null);
    await db.run("update tasklane.queue set deleted_at = now() - interval '8 days' where queue = $1", [long]);
    assert.equal(await drop(), day);
  });

  test('that is younger than task_attempt leaves nothing in the default partition', async () => {
    const queue = await register();
    const day = await makeDay(10, ['task', 'result', 'task_event']);
    const id = await endedOne(queue, 10 * DAY_S);
    assert.equal(await drop(), day);
    assert.deepEqual(await rowsOf([id]), [0, 0, 0, 0]);
  });

  test('with a replay under way is passed over for the next, and stays after it', async () => {
    const queue = await register();
    const [held, free] = [await makeDay(11), await makeDay(10)];
    const id = await endedOne(queue, 11 * DAY_S);
    await a.run('begin');
    await replay(a, id);
    const dropped = drop(b);
    await untilBlocked(db, b);
    // The lock is on the tables of all days.
    assert.equal(await dropped, null);
    await a.run('commit');
    assert.equal(await drop(b), free);
    assert.equal(await drop(b), null);
    assert.deepEqual(await partitionsOf('task'), [`task_${held}`]);
    assert.equal(await db.state(id), 'waiting');
  });

  test('that is being dropped lets a replay wait, which then finds nothing', async () => {
    const queue = await register();
    const day = await makeDay(10);
    const id = await endedOne(queue, 10 * DAY_S);
    await a.run('begin');
    assert.equal(await drop(a), day);
    const replayed = replay(b, id);
    await untilBlocked(db, b);
    assert.equal(await drop(db), null, 'a second caller goes home');
    await a.run('commit');
    assert.equal(await replayed, 0);
  });

  test('goes while others put, take, report and end, and none of them fails', async () => {
    const queue = await register();
    const days: string[] = [];
    for (let n = 30; n > 10; n--) days.push(await makeDay(n));
    await db.run('select tasklane.make_partitions()');
    await endedOne(queue, 20 * DAY_S);
    const sessions = await Promise.all(Array.from({ length: 8 }, () => database.open()));
    const dropped: string[] = [];
    const droppers = sessions.slice(0, 5).map(async (session) => {
      while (dropped.length < days.length) {
        const day = await drop(session);
        if (day !== null) dropped.push(day);
      }
    });
    const put: bigint[] = [];
    const enders = sessions.slice(5).map(async (session) => {
      while (dropped.length < days.length || put.length < 30) {
        put.push((await session.putOne({ queue })).id);
        for (const task of await session.take([`${queue}:0`], { size: 2 }))
          assert.deepEqual(await session.verdicts([task]), ['completed']);
      }
    });
    await Promise.all([...droppers, ...enders]);
    assert.deepEqual(dropped.toSorted(), days.toSorted());
    assert.equal((await there(put)).length, put.length);
  });
});

describe('remove_finished', () => {
  test('removes what is older than its queue keeps it, all its rows, and nothing that lives, however old', async () => {
    const [hour, day] = [
      await register({ retention_seconds: HOUR_S }),
      await register({ retention_seconds: 2 * DAY_S }),
    ];
    const gone = [...(await ended(hour, 3, 2 * HOUR_S)), ...(await ended(day, 2, 3 * DAY_S))];
    const stays = [
      ...(await ended(hour, 2, HOUR_S / 2)),
      ...(await ended(day, 2, 2 * HOUR_S)),
      ...(await ended(day, 1, DAY_S)),
    ];
    const waiting = await age([(await db.putOne({ queue: hour })).id], 3 * DAY_S);
    await lookAgain();
    await removeFinished();
    assert.deepEqual(await rowsOf(gone), [0, 0, 0, 0]);
    assert.deepEqual(await rowsOf(stays), [5, 5, 5, 5]);
    assert.deepEqual(await there(waiting), waiting);
    assert.equal(await db.state(waiting[0] as bigint), 'waiting');
  });

  test('removes at most p_limit tasks a call, wherever they lie', async () => {
    const [queue, other] = [await register({ retention_seconds: 60 }), await register()];
    await makeDay(2);
    const all: bigint[] = [];
    for (const seconds of [2 * DAY_S, 5 * HOUR_S, 2 * HOUR_S, 300]) {
      all.push(...(await ended(queue, 25, seconds)));
      await ended(other, 25, seconds);
    }
    await lookAgain();
    for (let left = 100, more = true; more; ) {
      more = await db.value<boolean>('select tasklane.remove_finished(10)');
      const { length } = await there(all);
      assert.ok(left - length <= 10, `${left - length} at once`);
      left = length;
    }
    assert.deepEqual(await there(all), []);
    assert.equal(await db.value('select count(*)::int from tasklane.task'), 100);
  });

  test('leaves whole days to the dropping of partitions, and removes what is left of days that something keeps', async () => {
    const queue = await register();
    await makeDay(8);
    await makeDay(9);
    const [recent, old] = [await endedOne(queue, 8 * DAY_S), await endedOne(queue, 9 * DAY_S)];
    const [waiting] = await age([(await db.putOne({ queue })).id], 9 * DAY_S);
    await lookAgain();
    await removeFinished();
    assert.deepEqual(await there([recent, old, waiting as bigint]), [waiting, recent]);
  });

  test('comes back to a task whose callback was still to be sent, however long that took', async () => {
    const queue = await register({ retention_seconds: 60 });
    const id = await endedOne(queue, HOUR_S, { callbackUrl: 'http://127.0.0.1/' });
    await lookAgain();
    await removeFinished();
    assert.deepEqual(await there([id]), [id]);
    await removeFinished();
    await settle();
    await db.run("update tasklane.queue set retained_from = now() - interval '1 hour'");
    await removeFinished();
    assert.deepEqual(await rowsOf([id]), [0, 0, 0, 0]);
    assert.equal(await kept(), 0);
    assert.equal(await db.value('select count(*)::int from tasklane.callback_delivery'), 0);
  });

  test('leaves a task alone whose failed callback is being sent again, and a retry of what is removed finds nothing', async () => {
    const queue = await register({ retention_seconds: 60 });
    const ids = await ended(queue, 2, HOUR_S, { callbackUrl: 'http://127.0.0.1/' });
    await db.run("update tasklane.callback_delivery set created_at = now() - interval '2 days'");
    await settle('refused');
    await lookAgain();
    const [retried, lost] = (await db.value<bigint[]>(
      'select array_agg(delivery_id order by task_id) from tasklane.callback_delivery',
    )) as [bigint, bigint];
    await a.run('begin');
    await a.run('select tasklane.retry_callback($1)', [retried]);
    await b.run('begin');
    await b.value('select tasklane.remove_finished()');
    assert.deepEqual(await b.value('select array_agg(id) from tasklane.task'), [ids[0]]);
    await a.run('commit');
    const late = a.run('select tasklane.retry_callback($1)', [lost]);
    const refused = assert.rejects(late, code('TL404'));
    await untilBlocked(db, a);
    await b.run('commit');
    await refused;
    assert.deepEqual(await there(ids), [ids[0]]);
  });

  test('gives a client that waits for its answer a minute', async () => {
    const queue = await register({ retention_seconds: 1, max_completed_tasks: 0 });
    const [blocking, streaming, callback] = [
      await endedOne(queue, 30, { mode: 'blocking' }),
      await endedOne(queue, 30, { mode: 'streaming' }),
      await endedOne(queue, 30),
    ];
    await removeFinished();
    await trim();
    assert.deepEqual(await there([blocking, streaming, callback]), [blocking, streaming]);
    const aged = await age([blocking, streaming], 31);
    await lookAgain();
    await removeFinished();
    assert.deepEqual(await there(aged), []);
  });

  test('goes by the retention that holds now, made shorter or longer', async () => {
    const queue = await register({ retention_seconds: 2 * DAY_S });
    const first = await ended(queue, 2, 30 * HOUR_S);
    await db.run("update tasklane.queue set retained_from = now() - interval '3 days'");
    await removeFinished();
    assert.equal((await there(first)).length, 2);
    await db.run(`select tasklane.set_queue($1, '{"retention_seconds": 3600}')`, [queue]);
    await removeFinished();
    assert.deepEqual(await there(first), []);
    const second = await ended(queue, 2, 1800);
    await db.run(`select tasklane.set_queue($1, '{"retention_seconds": 7200}')`, [queue]);
    const third = await age(second, HOUR_S);
    await removeFinished();
    assert.equal((await there(third)).length, 2);
    const fourth = await age(third, HOUR_S);
    // as it is once the longer retention has gone by
    await db.run("update tasklane.queue set retained_from = now() - interval '3 hours'");
    await removeFinished();
    assert.deepEqual(await there(fourth), []);
  });

  test('finds what was committed a while after the time that it ended at', async () => {
    const queue = await register({ retention_seconds: 1 });
    await removeFinished();
    const late = await endedOne(queue, 30);
    await removeFinished();
    assert.deepEqual(await there([late]), []);
  });

  test('removes what a deleted queue left, and then does not look at it any more', async () => {
    const queue = await register({ retention_seconds: HOUR_S });
    const id = await endedOne(queue, 2 * HOUR_S);
    await lookAgain();
    await db.run('select tasklane.delete_queue($1)', [queue]);
    await removeFinished();
    assert.deepEqual(await there([id]), []);
    await db.run("update tasklane.queue set deleted_at = now() - interval '2 days'");
    assert.deepEqual(await db.rows('select * from tasklane.due_queues()'), []);
  });

  test('by 5 callers at once, with some that trim, and with enders beside, loses nothing that should stay, and fails nobody', async () => {
    const queue = await register({ retention_seconds: 60, max_completed_tasks: 800 });
    const old: bigint[] = [];
    for (let n = 0; n < 10; n++) old.push(...(await ended(queue, 100, 120 + n)));
    await lookAgain();
    const sessions = await Promise.all(Array.from({ length: 14 }, () => database.open()));
    let removing = true;
    const removers = sessions.slice(0, 10).map(async (session, nth) => {
      while (removing) {
        await session.value(nth % 2 ? 'select tasklane.remove_finished(50)' : 'select tasklane.trim_kept(50)');
        if (nth === 0) removing = (await there(old)).length > 0;
      }
    });
    const young: bigint[] = [];
    // Each in a lane of its own: a take passes over what another is just taking, and could find nothing.
    const enders = sessions.slice(10).map(async (session, level) => {
      while (removing && young.length < 600) {
        const { id } = await session.putOne({ queue, level });
        assert.deepEqual(await session.verdicts([await session.takeOne([`${queue}:${level}`])]), ['completed']);
        young.push(id);
      }
    });
    await Promise.all([...removers, ...enders]);
    assert.deepEqual(await there(young), young.toSorted());
    assert.equal(await db.value('select count(*)::int from tasklane.task'), young.length);
    assert.equal(await kept(), young.length);
  });

  test('touches few buffers beside a million results of other times', async () => {
    const queue = await register({ retention_seconds: HOUR_S });
    await makeDay(1);
    const first = await db.value<bigint>(
      "select tasklane.first_id_of(date_trunc('day', now() at time zone 'UTC') at time zone 'UTC' - interval '1 day')",
    );
    await db.run(
      `insert into tasklane.result (id, completed_at, outcome, attempt, status_code, body)
       select $1::bigint + n::bigint * 80000000, now() - interval '6 days' + n * interval '100 milliseconds', 'succeeded', 1, 200, '{"ok":true}'
       from generate_series(1, 1000000) n`,
      [first],
    );
    await db.run(`vacuum analyze tasklane.result`);
    const measure = async () => {
      const ids = await ended(queue, 20, 2 * HOUR_S);
      await db.run("update tasklane.queue set retained_from = now() - interval '3 hours'");
      const [explained] = await db.value<{ Plan: { 'Shared Hit Blocks': number; 'Shared Read Blocks': number } }[]>(
        'explain (analyze, buffers, timing off, format json) select tasklane.remove_finished()',
      );
      assert.deepEqual(await there(ids), []);
      return (explained?.Plan['Shared Hit Blocks'] ?? 0) + (explained?.Plan['Shared Read Blocks'] ?? 0);
    };
    const counts = [await measure(), await measure(), await measure(), await measure()];
    assert.ok(Math.min(...counts) < 1000, `touched ${counts} buffers`);
  });
});

describe('max_completed_tasks', () => {
  test('keeps that many of a queue, the last ones, and 0 keeps none; others are not touched', async () => {
    const [two, none, all] = [
      await register({ max_completed_tasks: 2 }),
      await register({ max_completed_tasks: 0 }),
      await register(),
    ];
    const of = { two: [] as bigint[], none: [] as bigint[], all: [] as bigint[] };
    for (const secondsAgo of [50, 40, 30, 20]) {
      of.two.push(await endedOne(two, secondsAgo));
      of.none.push(await endedOne(none, secondsAgo));
      of.all.push(await endedOne(all, secondsAgo));
    }
    const { id: waiting } = await db.putOne({ queue: none });
    await trim(1);
    assert.deepEqual(await there(of.two), of.two.slice(2));
    assert.deepEqual(await rowsOf(of.none), [0, 0, 0, 0]);
    assert.deepEqual(await there(of.all), of.all);
    assert.equal(await db.state(waiting), 'waiting');
    assert.equal(await kept(), 2);
  });

  test('counts tasks that were cancelled or expired', async () => {
    const queue = await register({ max_completed_tasks: 0 });
    const ids = (await db.put([{ queue }, { queue }])).map((row) => row.id);
    await db.cancel([ids[0] as bigint]);
    await db.age([ids[1] as bigint]);
    await db.run('select tasklane.expire_tasks($1)', [ids]);
    await trim();
    assert.deepEqual(await there(ids), []);
  });

  test('switched on later counts what ended before; switched off it forgets', async () => {
    const queue = await register();
    const ids = [];
    for (const secondsAgo of [HOUR_S, 40, 30]) ids.push(await endedOne(queue, secondsAgo));
    await db.run(`select tasklane.set_queue($1, '{"max_completed_tasks": 5}')`, [queue]);
    await trim();
    assert.equal(await kept(), 3);
    await db.run(`select tasklane.set_queue($1, '{"max_completed_tasks": 1}')`, [queue]);
    await trim();
    assert.deepEqual(await there(ids), [ids[2]]);
    await db.run("update tasklane.queue set retained_from = now() - interval '1 day'");
    await db.run(`select tasklane.set_queue($1, '{"max_completed_tasks": null}')`, [queue]);
    assert.equal(await kept(), 0);
    await ended(queue, 2);
    assert.equal(await kept(), 0);
  });

  test('does not remove a task with a callback to send, nor one that was replayed and has ended again', async () => {
    const queue = await register({ max_completed_tasks: 1 });
    const pending = await endedOne(queue, 50, { callbackUrl: 'http://127.0.0.1/' });
    const again = await endedOne(queue, 40);
    const other = await endedOne(queue, 30);
    await replay(db, again);
    await db.take([`${queue}:0`]);
    assert.deepEqual(await db.verdicts([{ id: again }]), ['completed']);
    await trim();
    assert.deepEqual(await there([pending, again, other]), [pending, again]);
    await settle();
    await trim();
    assert.deepEqual(await there([pending, again]), [again]);
    assert.equal(await kept(), 1);
  });

  test('forgets tasks whose day was dropped', async () => {
    const queue = await register({ max_completed_tasks: 10, retention_seconds: DAY_S });
    const day = await makeDay(3);
    await endedOne(queue, 3 * DAY_S);
    assert.equal(await drop(), day);
    await db.run("update tasklane.queue set retained_from = now() - interval '3 days'");
    await removeFinished();
    assert.equal(await kept(), 0);
  });
});

describe('remove_tasks', () => {
  test('removes ended tasks of many days, and leaves all others', async () => {
    const queue = await register();
    await makeDay(3);
    const ids = [await endedOne(queue, 3 * DAY_S), await endedOne(queue, DAY_S), await endedOne(queue)];
    const alive = (await db.put([{ queue }, { queue }])).map((row) => row.id);
    await db.take([`${queue}:0`]);
    const removed = await db.rows<{ id: bigint }>('select id from tasklane.remove_tasks($1) order by id', [
      [...ids, ...ids, ...alive, 1n],
    ]);
    assert.deepEqual(
      removed.map((row) => row.id),
      ids,
    );
    assert.deepEqual(await rowsOf(ids), [0, 0, 0, 0]);
    assert.deepEqual(await there(alive), alive);
    for (const nothing of [[], null])
      assert.deepEqual(await db.rows('select * from tasklane.remove_tasks($1)', [nothing]), []);
  });

  test('neither waits for a replay that is under way nor removes its task', async () => {
    const queue = await register();
    const id = await endedOne(queue);
    await a.run('begin');
    await replay(a, id);
    assert.deepEqual(await db.rows('select * from tasklane.remove_tasks($1)', [[id]]), []);
    await a.run('commit');
    assert.deepEqual(await db.rows('select * from tasklane.remove_tasks($1)', [[id]]), []);
    assert.equal(await db.state(id), 'waiting');
  });
});

test('deliveries that were finished a week ago go, and keys of puts that have expired, in slices', async () => {
  const queue = await register();
  const ids = await ended(queue, 6, 0, { callbackUrl: 'http://127.0.0.1/' });
  await settle();
  await db.run(
    "update tasklane.callback_delivery set finished_at = now() - interval '8 days' where task_id = any($1)",
    [ids.slice(1)],
  );
  await endedOne(queue, 0, { callbackUrl: 'http://127.0.0.1/' });
  await db.run(
    `insert into tasklane.idempotency_key
     select 1, n::text, '', n, '', now() + n * interval '1 hour' from generate_series(-4, 2) n where n <> 0`,
  );
  assert.equal(await drain('remove_leftovers(2)'), 3);
  assert.deepEqual(await db.rows('select status from tasklane.callback_delivery order by delivery_id'), [
    { status: 'delivered' },
    { status: 'pending' },
  ]);
  assert.equal(await db.value('select count(*)::int from tasklane.idempotency_key'), 2);
  assert.deepEqual(await there(ids), ids);
});
