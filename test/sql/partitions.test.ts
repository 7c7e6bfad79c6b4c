import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { type Session, testDatabase, untilBlocked } from '../support/sql.ts';

const database = await testDatabase();
const [db, a, b] = (await Promise.all([database.open(), database.open(), database.open()])) as [
  Session,
  Session,
  Session,
];
const TABLES = ['task', 'result', 'task_event'];
const lanes = ['q:0'];
await db.register('q');

beforeEach(async () => {
  for (const { name } of await partitions())
    if (!name.endsWith('_default')) await db.run(`drop table tasklane.${name}`);
  await db.run('truncate tasklane.task, tasklane.result, tasklane.task_event, tasklane.ready, tasklane.running');
});

const partitions = () =>
  db.rows<{ name: string; bound: string }>(
    `select c.relname as name, pg_get_expr(c.relpartbound, c.oid) as bound from pg_class c join pg_inherits i on i.inhrelid = c.oid
     where i.inhparent = any($1::text[]::regclass[]) order by 1`,
    [TABLES.map((name) => `tasklane.${name}`)],
  );

const placeOf = (table: string, id: bigint) =>
  db.value<string>(`select relname from tasklane.${table} x join pg_class c on c.oid = x.tableoid where id = $1`, [id]);

const make = (session: Session, days?: number) => session.run(`select tasklane.make_partitions(${days ?? ''})`);

/** yyyyMMdd of the database's clock. */
const today = () => db.value<string>("select to_char(now() at time zone 'UTC', 'YYYYMMDD')");

test('today and the 7 days ahead get a partition of each table, and a second run changes nothing', async () => {
  await make(db);
  const made = await partitions();
  const days = await db.value<string[]>(
    "select array_agg(to_char(now() at time zone 'UTC' + make_interval(days => n), 'YYYYMMDD') order by n) from generate_series(0, 7) n",
  );
  assert.deepEqual(
    made.map((partition) => partition.name),
    TABLES.flatMap((table) => [`${table}_default`, ...days.map((day) => `${table}_${day}`)]).sort(),
  );
  for (const { name, bound } of made)
    if (!name.endsWith('_default')) {
      const day = name.slice(-8);
      const [from, to] = await db
        .value<bigint[]>(
          `select array[tasklane.first_id_of(d at time zone 'UTC'), tasklane.first_id_of((d + interval '1 day') at time zone 'UTC')]
         from (select $1::timestamp as d) d`,
          [day],
        )
        .then((pair) => pair as [bigint, bigint]);
      assert.equal(bound, `FOR VALUES FROM ('${from}') TO ('${to}')`);
    }
  await make(db);
  assert.deepEqual(await partitions(), made);
});

test('what was put, ended and reported before its day had a partition moves there when it gets one', async () => {
  const [ended, waiting] = await db.put([{ queue: 'q' }, { queue: 'q', data: '{"a": 1.0}' }]);
  assert.ok(ended && waiting);
  await db.take(lanes);
  await db.run("select tasklane.emit_event($1, 'chunk', '1')", [ended.task_id]);
  await db.complete([ended]);
  for (const table of TABLES) assert.equal(await placeOf(table, ended.id), `${table}_default`);
  await make(db);
  for (const table of TABLES) assert.equal(await placeOf(table, ended.id), `${table}_${await today()}`);
  assert.equal(await db.state(ended.id), 'succeeded');
  assert.equal((await db.takeOne(lanes)).data, '{"a": 1.0}');
  assert.equal(await db.value('select count(*)::int from tasklane.task_default'), 0);
});

test('a task of another day than those made stays in the default partition, and can be taken and completed', async () => {
  const put = await db.putOne({ queue: 'q' });
  for (const table of ['task', 'ready'])
    await db.run(`update tasklane.${table} set id = id + 10000000000 * 86400 * 30`);
  await make(db);
  const taken = await db.takeOne(lanes);
  assert.notEqual(taken.id, put.id);
  assert.deepEqual(await db.verdicts([taken]), ['completed']);
  assert.equal(await placeOf('result', taken.id), 'result_default');
});

test('a put that meets the making of its partition waits, and lands there', async () => {
  await a.run('begin');
  await make(a);
  const put = b.putOne({ queue: 'q' });
  await untilBlocked(db, b);
  await a.run('commit');
  assert.equal(await placeOf('task', (await put).id), `task_${await today()}`);
});

test('making a partition waits for a put that is under way, and takes it along', async () => {
  await a.run('begin');
  const put = await a.putOne({ queue: 'q' });
  const made = make(b);
  await untilBlocked(db, b);
  await a.run('commit');
  await made;
  assert.equal(await placeOf('task', put.id), `task_${await today()}`);
});

test('making gives up, and changes nothing, when a long transaction stands in its way, rather than make others wait', async () => {
  const before = await partitions();
  await a.run('begin');
  await a.value('select count(*) from tasklane.task');
  await assert.rejects(make(b), { code: '55P03' });
  await a.run('commit');
  assert.deepEqual(await partitions(), before);
});

test('puts, takes, events and completes go on while several make partitions', async () => {
  const workers = await Promise.all(Array.from({ length: 4 }, () => database.open()));
  const makers = [a, b, db];
  let making = makers.length;
  let done = 0;
  const work = workers.map(async (session) => {
    while (making > 0 || done < 50) {
      await session.put([{ queue: 'q' }, { queue: 'q' }]);
      for (const task of await session.take(lanes, { size: 2 })) {
        await session.run(
          'select tasklane.emit_events(array[$1::bigint], array[null::int], array[null], array[$2], array[null])',
          [task.id, 'chunk'],
        );
        assert.deepEqual(await session.verdicts([task]), ['completed']);
        done++;
      }
    }
  });
  const make1 = makers.map(async (session) => {
    // A maker that met the others in a knot gives way and comes again.
    for (;;)
      try {
        await make(session);
        break;
      } catch (error) {
        assert.equal((error as { code?: string }).code, '55P03');
      }
    making--;
  });
  await Promise.all([...work, ...make1]);
  assert.equal((await partitions()).length, 27);
  assert.equal(await db.value('select count(*)::int from tasklane.result_default'), 0);
  assert.equal(await db.value('select count(*)::int from tasklane.result'), done);
});
