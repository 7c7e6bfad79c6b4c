import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { createDatabase } from '../support/database.ts';
import { type Json, type Server, startServer } from '../support/server.ts';
import { ENDPOINT, talk, until } from './clients.ts';

/** Schedules enough that two servers are at it whenever a second begins, and a kill finds one in the middle. */
const SCHEDULES = 40;
const SECOND = 1000;

let database: Awaited<ReturnType<typeof createDatabase>>;
let psql: pg.Client;
const servers: Server[] = [];

const sql = async (text: string, values: unknown[] = []): Promise<Json[]> => (await psql.query(text, values)).rows;
async function start(): Promise<Server> {
  const server = await startServer({ url: database.url });
  servers.push(server);
  return server;
}

before(async () => {
  database = await createDatabase();
  psql = new pg.Client({ connectionString: database.url });
  await psql.connect();
  // Every tick that put a task, as the database has it.
  await sql('create table public.tick (schedule_id int, at timestamptz, task_id text)');
  await sql(`create function public.note_tick() returns trigger language plpgsql as
    'begin insert into public.tick values (new.schedule_id, new.last_run, new.last_task_id); return new; end'`);
  await sql(`create trigger note_tick after update on tasklane.schedule for each row
    when (new.run_count > old.run_count) execute function public.note_tick()`);
});
after(async () => {
  await psql?.end();
  await Promise.all(servers.map((server) => server.stop()));
  await database?.drop();
});

async function makeSchedules(server: Server, queue: string, more: object): Promise<void> {
  await talk(server).register(queue);
  const answers = await Promise.all(
    Array.from({ length: SCHEDULES }, (_, n) => {
      const task = { queue, endpoint: ENDPOINT, data: { n } };
      return server.request('POST', '/v1/schedules', { name: `${queue} ${n}`, cron: '* * * * * *', task, ...more });
    }),
  );
  for (const { status, text } of answers) assert.equal(status, 200, text);
}

const ticks = async (queue: string): Promise<Json[]> =>
  sql(
    `select k.schedule_id, k.task_id, (extract(epoch from k.at) * 1000)::float8 as at
     from public.tick k join tasklane.schedule s using (schedule_id) where s.name like $1 order by 1, 3`,
    [`${queue} %`],
  );

/** Every schedule has fired for every second from its first tick on, once, and for each there is one task. */
async function assertEachSecondOnce(server: Server, queue: string): Promise<void> {
  await sql(`update tasklane.schedule set enabled = false where name like $1`, [`${queue} %`]);
  const all = await ticks(queue);
  const bySchedule = Map.groupBy(all, (tick) => tick.schedule_id);
  assert.equal(bySchedule.size, SCHEDULES);
  for (const own of bySchedule.values())
    assert.deepEqual(
      own.map((tick) => tick.at),
      own.map((_, n) => own[0].at + n * SECOND),
    );
  const taken: string[] = [];
  while (taken.length < all.length) {
    const tasks = await talk(server).take(queue, { size: 1000 });
    assert.notEqual(tasks.length, 0, `${all.length - taken.length} tasks are missing`);
    taken.push(...tasks.map((task) => task.task_id));
  }
  assert.deepEqual(await talk(server).take(queue), []);
  assert.deepEqual(taken.sort(), all.map((tick) => tick.task_id).sort());
}

const secondsFired = async (queue: string) => new Set((await ticks(queue)).map((tick) => tick.at)).size;

test('two servers put one task a tick, also when one of them is killed with -9 in the middle of it', async () => {
  const [a, b] = await Promise.all([start(), start()]);
  assert.ok(a && b);
  await makeSchedules(a, 'seconds', {});
  await until('some seconds have passed', async () => (await secondsFired('seconds')) >= 2);
  // As a second begins: some of its ticks have been fired, some have not.
  await until('a second begins', async () => {
    const all = await ticks('seconds');
    const last = Math.max(...all.map((tick) => tick.at));
    return all.filter((tick) => tick.at === last).length < SCHEDULES;
  });
  await a.kill('SIGKILL');
  const killed = await secondsFired('seconds');
  await until('the other goes on', async () => (await secondsFired('seconds')) >= killed + 2);
  await assertEachSecondOnce(b, 'seconds');
});

test('what no server was there for is made up when one starts again, if all of it is wanted', async () => {
  for (const server of servers) await server.kill('SIGKILL');
  const first = await start();
  await makeSchedules(first, 'away', { missed: 'all' });
  await until('a second has passed', async () => (await secondsFired('away')) >= 1);
  await first.kill('SIGKILL');
  const killed = Date.now();
  await sql(`update tasklane.schedule set next_run = next_run - interval '20 seconds' where name like 'away %'`);
  await sql(`update public.tick set at = at - interval '20 seconds'`);
  const second = await start();
  await until('it has caught up', async () => {
    const [{ behind }] = await sql(`select min(next_run) as behind from tasklane.schedule where name like 'away %'`);
    return behind.getTime() > killed;
  });
  await assertEachSecondOnce(second, 'away');
});
