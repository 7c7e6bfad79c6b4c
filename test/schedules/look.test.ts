import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type Database, openDatabase } from '../../server/db/open.ts';
import type { PutTask } from '../../server/db/put-tasks.ts';
import {
  dueSchedules,
  fireSchedule,
  makeSchedule,
  readNow,
  readSchedule,
  type Schedule,
  setSchedule,
} from '../../server/db/schedules.ts';
import { createLogger } from '../../server/observe/logger.ts';
import { TasklaneError } from '../../server/protocol/errors.ts';
import type { Missed } from '../../server/protocol/schedules.ts';
import { putBody } from '../../server/protocol/tasks.ts';
import { readCron } from '../../server/schedules/cron.ts';
import { createLook } from '../../server/schedules/look.ts';
import { newTask } from '../../server/tasks/new-task.ts';
import { type Session, testDatabase, untilBlocked } from '../support/sql.ts';

const CHAT = '/v1/chat/completions';
const SECOND = 1000;
const MINUTE = 60 * SECOND;
const WHO = { tenantId: 1, keyId: null };

const database = await testDatabase();
const log = createLogger('silent');
let db: Database;
let psql: Session;
const announced: PutTask[] = [];
let look: () => Promise<void>;

before(async () => {
  db = await openDatabase(database.url, { maxConnections: 4 });
  psql = await database.open();
  look = createLook({ db, log, announcePut: (rows) => announced.push(...rows) });
});
after(() => db?.close());

type Made = {
  id: number;
  queue: string;
  schedule(): Promise<Schedule>;
  tasks(): Promise<{ task_id: string; data: object }[]>;
  announced(): { task_id: string; lane: string | null }[];
};

/** A schedule on a queue of its own, whose next tick is set to a time. */
async function scheduled(
  nextRun: number | null,
  more: { cron?: string; missed?: Missed; task?: object; enabled?: boolean } = {},
): Promise<Made> {
  const queue = database.name();
  await psql.register(queue);
  const task = JSON.stringify({ queue, endpoint: CHAT, data: { of: queue }, ...more.task });
  const settings = {
    name: queue,
    cron: '* * * * *',
    timezone: 'UTC',
    task,
    enabled: true,
    missed: 'skip' as const,
    ...more,
  };
  const id = await makeSchedule(
    db,
    WHO,
    { ...settings, task },
    nextRun,
    newTask(putBody.parse(JSON.parse(task)), task, WHO),
  );
  return {
    id,
    queue,
    schedule: async () => (await readSchedule(db, id, null)) as Schedule,
    tasks: () => psql.rows('select task_id, data from tasklane.task_status where queue = $1 order by id', [queue]),
    announced: () =>
      announced.filter((row) => row.lane?.startsWith(`${queue}:`)).map(({ task_id, lane }) => ({ task_id, lane })),
  };
}

/** The database's time, and the minute's tick at or before it, both at least 6 s from any other minute's tick. */
async function midMinute(): Promise<{ now: number; minute: number }> {
  for (;;) {
    const now = await readNow(db);
    const minute = Math.floor(now / MINUTE) * MINUTE;
    if (now - minute > 6 * SECOND && now - minute < 55 * SECOND) return { now, minute };
  }
}

describe('a look', () => {
  test('puts the task of a tick that has come, wakes who waits for it, and goes on to the next', async () => {
    const minute = Math.floor((await readNow(db)) / SECOND) * SECOND;
    const { queue, schedule, tasks, announced } = await scheduled(minute, { task: { level: 2, data: { n: 1 } } });
    await look();
    const [task, ...others] = await tasks();
    assert.deepEqual(others, []);
    assert.deepEqual(task?.data, { n: 1 });
    assert.deepEqual(announced(), [{ task_id: task?.task_id, lane: `${queue}:2` }]);
    const { last_run, run_count, last_task_id, last_error, next_run } = await schedule();
    assert.deepEqual([last_run, run_count, last_task_id, last_error], [minute, '1', task?.task_id, null]);
    assert.equal(next_run, readCron('* * * * *', 'UTC')(minute));
  });

  test('leaves what is not due, or disabled, as it is', async () => {
    const soon = (await readNow(db)) + 30 * SECOND;
    const later = await scheduled(soon);
    const off = await scheduled(soon - MINUTE, { enabled: false });
    const before = [await later.schedule(), await off.schedule()].map(({ version }) => version);
    await look();
    assert.deepEqual(
      [await later.schedule(), await off.schedule()].map(({ version }) => version),
      before,
    );
    assert.deepEqual([await later.tasks(), await off.tasks()], [[], []]);
  });

  test('puts every tick that is not late, in order, and once', async () => {
    const from = Math.floor((await readNow(db)) / SECOND) * SECOND - 3 * SECOND;
    const { schedule, tasks } = await scheduled(from, { cron: '* * * * * *' });
    await look();
    const { last_run, run_count, next_run } = await schedule();
    const ticks = ((last_run as number) - from) / SECOND + 1;
    assert.ok(ticks >= 4);
    assert.equal(Number(run_count), ticks);
    assert.equal((await tasks()).length, ticks);
    assert.equal(next_run, (last_run as number) + SECOND);
  });

  test('handles what is due beside a schedule with more missed ticks than one look takes', async () => {
    const far = Math.floor((await readNow(db)) / SECOND) * SECOND - 3600 * SECOND;
    const behind = await scheduled(far, { cron: '* * * * * *', missed: 'all' });
    // Once a year, as the next minute may come while it looks.
    const other = await scheduled(await readNow(db), { cron: '0 0 1 1 *' });
    await look();
    const { run_count, next_run } = await behind.schedule();
    await psql.run('delete from tasklane.schedule where schedule_id = $1', [behind.id]);
    assert.equal((await other.tasks()).length, 1);
    assert.ok(Number(run_count) > 100 && Number(run_count) < 3600, `${run_count} in one look`);
    assert.equal(next_run, far + Number(run_count) * SECOND, 'the next look goes on there');
  });
});

describe('ticks that were missed', () => {
  test('skip: are dropped, and the next one is in the future', async () => {
    const { minute } = await midMinute();
    const { schedule, tasks } = await scheduled(minute - 9 * MINUTE, { missed: 'skip' });
    await look();
    assert.deepEqual(await tasks(), []);
    const { next_run, last_run, run_count, last_error } = await schedule();
    assert.deepEqual([next_run, last_run, run_count, last_error], [minute + MINUTE, null, '0', null]);
  });

  test('one: put one task together', async () => {
    const { minute } = await midMinute();
    const { schedule, tasks } = await scheduled(minute - 9 * MINUTE, { missed: 'one' });
    await look();
    assert.equal((await tasks()).length, 1);
    const { next_run, last_run, run_count } = await schedule();
    assert.deepEqual([next_run, last_run, run_count], [minute + MINUTE, minute - 9 * MINUTE, '1']);
  });

  test('all: put a task each, in order', async () => {
    const { minute } = await midMinute();
    const { id, schedule, tasks } = await scheduled(minute - 9 * MINUTE, { missed: 'all' });
    await psql.run('create table public.tick (id int, at timestamptz)');
    await psql.run(`create function public.tick() returns trigger language plpgsql as
      'begin insert into public.tick values (new.schedule_id, new.last_run); return new; end'`);
    await psql.run('create trigger tick after update on tasklane.schedule for each row execute function public.tick()');
    await look();
    assert.equal((await tasks()).length, 10);
    const ticks = await psql.rows<{ at: Date }>('select at from public.tick where id = $1 order by ctid', [id]);
    assert.deepEqual(
      ticks.map(({ at }) => at.getTime()),
      Array.from({ length: 10 }, (_, n) => minute + (n - 9) * MINUTE),
    );
    assert.equal((await schedule()).next_run, minute + MINUTE);
    await psql.run('drop table public.tick cascade; drop function public.tick cascade');
  });

  for (const missed of ['skip', 'one'] as const) {
    test(`${missed}: the ticks of the last 5 s are not among them`, async () => {
      const now = await readNow(db);
      const from = Math.floor(now / SECOND) * SECOND - 3600 * SECOND;
      const { schedule, tasks } = await scheduled(from, { cron: '* * * * * *', missed });
      await look();
      const onTime = (await tasks()).length - (missed === 'one' ? 1 : 0);
      assert.ok(onTime >= 5 && onTime <= 7, `${onTime} on time`);
      const { last_run, next_run } = await schedule();
      assert.ok((last_run as number) >= now - SECOND);
      assert.equal(next_run, (last_run as number) + SECOND);
    });
  }
});

describe('a refusal', () => {
  test('takes up its tick and is kept, until a tick puts its task again', async () => {
    const { minute } = await midMinute();
    const { queue, schedule, tasks, announced } = await scheduled(minute, { missed: 'one' });
    await psql.run('select tasklane.delete_queue($1)', [queue]);
    await look();
    const refused = await schedule();
    assert.equal(refused.last_error, `unknown queue "${queue}"`);
    assert.deepEqual([refused.next_run, refused.last_run, refused.run_count], [minute + MINUTE, null, '0']);
    assert.deepEqual(announced(), []);
    await psql.register(queue);
    await psql.run(`update tasklane.schedule set next_run = next_run - interval '1 minute' where name = $1`, [queue]);
    await look();
    assert.equal((await tasks()).length, 1);
    assert.deepEqual([(await schedule()).last_error, (await schedule()).run_count], [null, '1']);
  });

  test('of a task that is no task any more is kept as well, and other schedules go on', async () => {
    const now = await readNow(db);
    const broken = await scheduled(now - 2);
    const other = await scheduled(now - 1);
    await psql.run(`update tasklane.schedule set task = '{"endpoint": 7}' where schedule_id = $1`, [broken.id]);
    await look();
    assert.match((await broken.schedule()).last_error as string, /endpoint/);
    assert.ok(((await broken.schedule()).next_run as number) > now);
    assert.equal((await other.tasks()).length, 1);
  });

  test('an expression that is none any more stops its schedule', async () => {
    const { id, schedule, tasks } = await scheduled(await readNow(db));
    await psql.run(`update tasklane.schedule set timezone = 'Mars/Olympus' where schedule_id = $1`, [id]);
    await look();
    assert.equal((await schedule()).next_run, null);
    assert.match((await schedule()).last_error as string, /unknown time zone/);
    assert.deepEqual(await tasks(), []);
  });

  test('a tick that no other follows is the last', async () => {
    const { schedule, tasks } = await scheduled(await readNow(db));
    const [due] = (await dueSchedules(db, 100)).slice(-1);
    assert.ok(due);
    await fireSchedule(db, due, null, newTask(putBody.parse(JSON.parse(due.task)), due.task, WHO));
    assert.equal((await schedule()).next_run, null);
    await look();
    assert.equal((await tasks()).length, 1);
  });
});

describe('several servers', () => {
  test('that look at the same time put one task a tick', async () => {
    const others = await Promise.all([1, 2, 3].map(() => openDatabase(database.url, { maxConnections: 4 })));
    try {
      const looks = [db, ...others].map((one) => createLook({ db: one, log, announcePut: () => undefined }));
      const { minute } = await midMinute();
      const made: Made[] = [];
      while (made.length < 20) made.push(await scheduled(minute - 4 * MINUTE, { missed: 'all' }));
      await Promise.all(looks.map((one) => one()));
      for (const { schedule, tasks } of made) {
        assert.equal((await tasks()).length, 5);
        assert.deepEqual([(await schedule()).run_count, (await schedule()).next_run], ['5', minute + MINUTE]);
      }
    } finally {
      await Promise.all(others.map((one) => one.close()));
    }
  });

  test('who comes second to a tick, having waited for the first, does nothing', async () => {
    const { id, queue, schedule, tasks } = await scheduled(await readNow(db));
    const fire = `select * from tasklane.fire_schedule($1, $2, now() + interval '1 hour', array[0], array[1], array[null::int], array[$3],
      array['${CHAT}'], array[0], array['callback'], array[5], array[60], array[null], array[null], array['{}'])`;
    const { version } = await schedule();
    const [first, second] = [await database.open(), await database.open()];
    await first.run('begin');
    assert.equal((await first.rows(fire, [id, version, queue])).length, 1);
    const waiting = second.rows(fire, [id, version, queue]);
    await untilBlocked(psql, second);
    await first.run('commit');
    assert.deepEqual(await waiting, []);
    assert.equal((await tasks()).length, 1);
    assert.equal((await schedule()).run_count, '1');
  });

  test('a tick that was read before its schedule changed does nothing', async () => {
    const { id, schedule, tasks } = await scheduled(await readNow(db));
    const due = (await dueSchedules(db, 100)).find((one) => one.schedule_id === id);
    assert.ok(due);
    const was = await schedule();
    assert.ok(await setSchedule(db, was, { ...was, cron: '0 0 1 1 *' }, was.next_run, null));
    assert.ok(!(await setSchedule(db, was, { ...was, cron: '0 0 2 1 *' }, was.next_run, null)), 'nor does a change');
    assert.deepEqual(
      await fireSchedule(db, due, null, newTask(putBody.parse(JSON.parse(due.task)), due.task, WHO)),
      [],
    );
    assert.deepEqual([await tasks(), (await schedule()).cron], [[], '0 0 1 1 *']);
    await look();
    assert.equal((await tasks()).length, 1);
  });
});

test('a look while the database is away says so and loses nothing', async () => {
  const { schedule, tasks } = await scheduled(await readNow(db));
  // Every session is cut as it is to put the first task.
  await psql.run(`create function public.cut() returns trigger language plpgsql as
    'begin perform pg_terminate_backend(pg_backend_pid(), 60000); return new; end'`);
  await psql.run('create trigger cut before update on tasklane.schedule for each row execute function public.cut()');
  await assert.rejects(look(), (error) => error instanceof TasklaneError && error.status === 503);
  await psql.run('drop function public.cut cascade');
  assert.deepEqual([(await schedule()).run_count, (await schedule()).last_error], ['0', null]);
  await look();
  assert.equal((await tasks()).length, 1);
});

test('looking finds what is due by an index, however many schedules there are', async () => {
  await psql.run('delete from tasklane.schedule');
  await scheduled(await readNow(db));
  await psql.run(`insert into tasklane.schedule (tenant_id, name, cron, task, next_run)
    select 1, 'many ' || n, '@daily', '{}', now() + interval '1 day' from generate_series(1, 20000) n`);
  await psql.run('analyze tasklane.schedule');
  const counts: number[] = [];
  // The least of some calls: the first plans, and others that make databases empty this session's caches.
  while (counts.length < 5) {
    const [explained] = await psql.value<{ Plan: Record<string, number> }[]>(
      'explain (analyze, buffers, timing off, format json) select * from tasklane.due_schedules(1000)',
    );
    const { 'Shared Hit Blocks': hit = 0, 'Shared Read Blocks': read = 0, 'Actual Rows': rows } = explained?.Plan ?? {};
    assert.equal(rows, 1);
    counts.push(hit + read);
  }
  assert.ok(Math.min(...counts) < 20, `${counts} buffers`);
});

test('people see schedules in a view, and are told there how to make them', async () => {
  const { queue } = await scheduled(Date.UTC(2100, 0), { missed: 'all' });
  const rows = await psql.rows('select * from tasklane.schedule_status where name = $1', [queue]);
  assert.deepEqual(rows, [
    {
      ...{ name: queue, tenant: 'default', cron: '* * * * *', timezone: 'UTC', enabled: true, missed: 'all' },
      ...{ next_run: new Date(Date.UTC(2100, 0)), last_run: null, run_count: 0n, last_error: null },
    },
  ]);
  assert.match(await psql.value(`select obj_description('tasklane.schedule_status'::regclass)`), /\/v1\/schedules/);
});
