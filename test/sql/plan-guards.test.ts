import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Session, type TakeOptions, takeValues, testDatabase } from '../support/sql.ts';

// How many 8 kB buffers a call may touch, whatever the backlog; each message says how many it did. A plan gone wrong, and a walk
// over dead rows, touch thousands.
const BOUND = {
  // what the tests before took lies dead behind the hints, which a server would have moved on
  'take 1': 600,
  'take 10': 700,
  put: 150,
  'keyed put': 250,
  complete: 150,
  cancel: 150,
  task_state: 60,
  sweep: 150,
  extend: 150,
  release: 250,
  refuse: 350,
  'take back': 250,
  priority: 300,
  // it counts up to ten thousand others, and looks at the last that ended
  explain: 2500,
};
const STRATEGIES = ['fifo', 'round_robin', 'active_passive', 'sequential'];
const QUEUES = ['q1', 'q2', 'q3', 'q4'];
const LANES = QUEUES.map((queue) => `${queue}:0`);
const RANK = 95;

type Hints = { hintRanks: number[]; hintIds: bigint[] };
type Blocks = { 'Shared Hit Blocks': number; 'Shared Read Blocks': number };

/** Runs a statement and tells the buffers that it touched. */
async function touched(session: Session, text: string, values: unknown[]): Promise<number> {
  const [explained] = await session.value<{ Plan: Blocks }[]>(
    `explain (analyze, buffers, timing off, format json) ${text}`,
    values,
  );
  assert.ok(explained);
  return explained.Plan['Shared Hit Blocks'] + explained.Plan['Shared Read Blocks'];
}

const touchedByTake = (session: Session, options: TakeOptions) =>
  touched(
    session,
    'select * from tasklane.take_tasks($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)',
    takeValues(LANES, options),
  );

/**
 * The least of five calls: others that make databases and tables can empty this session's caches at any time, and the call
 * that then reads the catalogs again and plans anew touches hundreds more.
 */
async function assertBounded(what: keyof typeof BOUND, run: () => Promise<number>): Promise<void> {
  const counts: number[] = [];
  while (counts.length < 5) counts.push(await run());
  assert.ok(Math.min(...counts) <= BOUND[what], `${what} touched ${counts} buffers, more than ${BOUND[what]}`);
}

/** Every function once, so that the session has its plans. */
async function callAll(session: Session, hints?: Hints): Promise<void> {
  for (const strategy of STRATEGIES)
    for (const size of [1, 10])
      for (const minAge of [0, 1]) {
        const taken = await session.take(LANES, { strategy, size, minAge, ...hints });
        await session.complete(taken.length > 0 ? taken : [{ id: 1n }]);
      }
  const { id } = await session.putOne({ queue: 'q1' });
  await session.rows('select * from tasklane.explain_task($1::bigint)', [id]);
  await session.cancel([id]);
  await session.state(id);
  await session.rows('select * from tasklane.return_tasks(array[1], array[1])');
}

/** Puts `live` waiting tasks of a day, the lanes in turn, behind `dead` that are then deleted; returns where each lane's live ones begin. */
async function fill(
  db: Session,
  live: number,
  dead: number,
  day: 'now' | 'yesterday',
  beforeDelete: () => Promise<void>,
): Promise<Hints> {
  const lanes = await db.value<number[]>('select array_agg(lane_id order by lane_id) from tasklane.lane');
  const first = await db.value<bigint>("select tasklane.first_id_of(date_trunc('day', $1::timestamptz, 'UTC'))", [day]);
  await db.run(
    `insert into tasklane.ready (id, expires_at, lane_id, attempt, rank)
     select $3::bigint + n, now() + interval '1 day', ($2::int[])[1 + n % 4], 0, ${RANK} from generate_series(1, $1::int) n`,
    [live + dead, lanes, first],
  );
  await db.run(
    `insert into tasklane.task (id, created_at, expires_at, lane_id, tenant_id, mode, rank, data)
     select id, now(), expires_at, lane_id, 1, 'callback', rank, '{}' from tasklane.ready order by id`,
  );
  await beforeDelete();
  await db.run('delete from tasklane.ready where id <= $1', [first + BigInt(dead)]);
  return { hintRanks: LANES.map(() => RANK), hintIds: LANES.map(() => first + BigInt(dead)) };
}

async function prepare(live: number, dead: number, day: 'now' | 'yesterday') {
  const database = await testDatabase();
  const db = await database.open();
  const [early, late, holder] = [await database.open(), await database.open(), await database.open()];
  for (const table of ['ready', 'running', 'deferred'])
    await db.run(`alter table tasklane.${table} set (autovacuum_enabled = off)`);
  await db.run('select tasklane.make_partitions()');
  for (const queue of QUEUES) {
    await db.register(queue);
    await db.putOne({ queue });
    await db.complete(await db.take([`${queue}:0`]));
  }
  // Plans made while the tables are known to be empty are the worst to be left with.
  await db.run('vacuum analyze');
  await callAll(early);
  const hints = await fill(db, live, dead, day, async () => {
    await holder.run('begin isolation level repeatable read');
    await holder.value('select count(*) from tasklane.lane');
  });
  await callAll(late, hints);
  return { db, early, late, holder, hints };
}

function guard(session: Session, hints: Hints): void {
  for (const strategy of STRATEGIES)
    for (const size of [1, 10] as const)
      for (const minAge of [0, 5])
        test(`${strategy}: a take of ${size}, of a minimum age of ${minAge} s, touches a bounded number of buffers`, () =>
          assertBounded(`take ${size}`, async () => {
            const count = await touchedByTake(session, { strategy, size, minAge, ...hints });
            await session.run('select tasklane.cancel_tasks(array_agg(id)) from tasklane.running');
            return count;
          }));

  const waiting = async () => (await session.putOne({ queue: 'q3' })).id;
  const running = async () => (await session.takeOne(LANES, hints)).id;

  test('so does putting a task', () =>
    assertBounded('put', () =>
      touched(
        session,
        `select * from tasklane.put_tasks(array[1], array[1], array[null::int], array['q2'], array[null], array[0],
           array['callback'], array[5], array[60], array[null], array[null], array['{}'])`,
        [],
      ),
    ));

  test('so does completing a task', () =>
    assertBounded('complete', async () =>
      touched(
        session,
        "select * from tasklane.complete_tasks(array[$1::bigint], null, array[200], null, array['{}'])",
        [await running()],
      ),
    ));

  test('so does putting one with an idempotency key', () =>
    assertBounded('keyed put', () =>
      touched(
        session,
        `select * from tasklane.put_tasks(array[1], array[1], array[null::int], array['q2'], array[null], array[0],
           array['callback'], array[5], array[60], array[null], array[null], array['{}'],
           p_options => array[json_build_object('idempotency_key', gen_random_uuid(), 'body_hash', 'aa')::text])`,
        [],
      ),
    ));

  test('so does a sweep with nothing due', () =>
    assertBounded('sweep', () =>
      touched(session, "select * from tasklane.sweep_due(1000, now() - interval '10 seconds')", []),
    ));

  test('so does extending a lease', () =>
    assertBounded('extend', async () =>
      touched(session, 'select * from tasklane.extend_leases(array[$1::bigint], null)', [await running()]),
    ));

  test('so does taking back what ran', () =>
    assertBounded('take back', async () =>
      touched(
        session,
        `with gone as (delete from tasklane.running where id = $1 returning *)
         select t.* from tasklane.take_back((select array_agg(g::tasklane.running) from gone g), 'lapsed') t`,
        [await running()],
      ),
    ));

  for (const delay of [0, 60])
    test(`so does releasing a task for ${delay} s`, () =>
      assertBounded('release', async () =>
        touched(session, 'select * from tasklane.release_tasks(array[$1::bigint], null, array[$2::float8], null)', [
          await running(),
          delay,
        ]),
      ));

  test('so does one that is refused again', () =>
    assertBounded('refuse', async () => {
      const id = await running();
      const refuse = `select * from tasklane.release_tasks(array[$1::bigint], null, array[3600], null, array[false], array[429], array[null],
        array['{}'], array[null])`;
      await session.run(refuse, [id]);
      await session.run('update tasklane.deferred set run_at = now() where id = $1', [id]);
      await session.run('select tasklane.sweep_due()');
      await session.take(LANES, hints);
      const count = await touched(session, refuse, [id]);
      assert.equal(await session.value('select refusals from tasklane.task_attempt where id = $1', [id]), 2);
      return count;
    }));

  test('so does changing the priority of a waiting task', () =>
    assertBounded('priority', async () =>
      touched(session, 'select * from tasklane.set_priorities(array[$1::bigint], array[4])', [await waiting()]),
    ));

  describe('while queues have limits', () => {
    const limit = (settings: object) =>
      session.run("select tasklane.set_queue(q, $1) from unnest(array['q1', 'q4']) q", [settings]);
    test('which are set', () => limit({ max_running: 1000, max_depth: 2_000_000 }));
    for (const size of [1, 10] as const)
      test(`a take of ${size} touches a bounded number of buffers`, () =>
        assertBounded(`take ${size}`, async () => {
          const count = await touchedByTake(session, { size, ...hints });
          await session.run('select tasklane.cancel_tasks(array_agg(id)) from tasklane.running');
          return count;
        }));
    test('so does a put, into a limited queue and into another', async () => {
      for (const queue of ['q1', 'q2'])
        await assertBounded('put', () =>
          touched(
            session,
            `select * from tasklane.put_tasks(array[1], array[1], array[null::int], array[$1], array[null], array[0],
               array['callback'], array[5], array[60], array[null], array[null], array['{}'])`,
            [queue],
          ),
        );
    });
    test('which are taken away', () => limit({ max_running: null, max_depth: null }));
  });

  test('so does a take while a hundred tasks age', async () => {
    await session.run(
      "update tasklane.ready set ages_at = now() + interval '1 hour' where lane_id = (select min(lane_id) from tasklane.lane) and rank = $1 and id < $2",
      [RANK, (hints.hintIds[0] as bigint) + 400n],
    );
    await assertBounded('take 1', async () => {
      const count = await touchedByTake(session, { size: 1, ...hints });
      await session.run('select tasklane.cancel_tasks(array_agg(id)) from tasklane.running');
      return count;
    });
  });

  for (const [state, task] of Object.entries({ waiting, running })) {
    test(`so does cancelling a ${state} task`, () =>
      assertBounded('cancel', async () =>
        touched(session, 'select * from tasklane.cancel_tasks(array[$1::bigint])', [await task()]),
      ));
    test(`so does asking for the state of a ${state} task`, () =>
      assertBounded('task_state', async () => touched(session, 'select tasklane.task_state($1)', [await task()])));
  }
}

/** It has no hints: what is dead at the head of a lane and held by a snapshot, it walks over. */
function guardExplain(session: Session, hints: Hints): void {
  const tasks = {
    waiting: async () => (await session.putOne({ queue: 'q3' })).id,
    running: async () => (await session.takeOne(LANES, hints)).id,
  };
  for (const [state, task] of Object.entries(tasks))
    test(`so does explaining a ${state} task`, () =>
      assertBounded('explain', async () =>
        touched(session, 'select * from tasklane.explain_task($1::bigint)', [await task()]),
      ));
}

// In no partition but the default one, which was empty when plans were made.
describe('with 1,000 waiting tasks of a day that has no partition', async () => {
  const { early, late, holder, hints } = await prepare(1000, 0, 'yesterday');
  await holder.run('rollback');
  for (const [began, session] of [
    ['empty tables', early],
    ['full ones', late],
  ] as const)
    describe(`in a session that began on ${began}`, () => {
      guard(session, hints);
      guardExplain(session, hints);
    });
});

describe('with 5,000 queues and 20,000 tenants more than when plans were made', async () => {
  const { db, early, late, holder, hints } = await prepare(2000, 0, 'now');
  await holder.run('rollback');
  for (const table of ['queue', 'tenant', 'lane'])
    await db.run(`alter table tasklane.${table} set (autovacuum_enabled = off)`);
  for (const session of [early, late]) await callAll(session, hints);
  await db.run("insert into tasklane.queue (queue, endpoint) select 'more' || n, '/' from generate_series(1, 5000) n");
  await db.run('insert into tasklane.lane (queue_id, level) select queue_id, 9 from tasklane.queue');
  await db.run(
    "insert into tasklane.tenant (tenant, callback_secret) select 'more' || n, '' from generate_series(1, 20000) n",
  );
  for (const [began, session] of [
    ['empty tables', early],
    ['full ones', late],
  ] as const)
    describe(`in a session that began on ${began}`, () => {
      guard(session, hints);
      guardExplain(session, hints);
    });
});

describe('with 1,000,000 waiting tasks behind 100,000 dead ones', async () => {
  const { db, early, late, holder, hints } = await prepare(1_000_000, 100_000, 'now');

  test('without its hint a take walks over the dead ones: what is guarded against is there', async () => {
    assert.ok((await touchedByTake(late, { size: 1 })) > 1000);
  });

  describe('and a snapshot that holds them', () => {
    describe('in a session that began on empty tables', () => guard(early, hints));
    describe('in a session that began on full ones', () => guard(late, hints));
  });

  describe('and no snapshot', () => {
    test('which has ended', () => holder.run('rollback'));
    for (const [began, session] of [
      ['empty tables', early],
      ['full ones', late],
    ] as const)
      describe(`in a session that began on ${began}`, () => {
        guard(session, hints);
        guardExplain(session, hints);
      });
  });

  describe('and statistics of them all', () => {
    test('which are gathered, and plans made anew', async () => {
      await db.run('analyze');
      for (const session of [early, late]) await callAll(session, hints);
    });
    describe('in a session that began on empty tables', () => guard(early, hints));
    describe('in a session that began on full ones', () => guard(late, hints));
  });
});
