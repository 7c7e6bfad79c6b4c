import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { talk, until } from '../acceptance/clients.ts';
import { startReceiver } from '../callbacks/receiver.ts';
import { createDatabase } from '../support/database.ts';
import { type Json, type Server, startServer } from '../support/server.ts';

let database: Awaited<ReturnType<typeof createDatabase>>;
let psql: pg.Client;
const servers: Server[] = [];

const sql = async (text: string, values: unknown[] = []): Promise<Json[]> => (await psql.query(text, values)).rows;
const start = async (): Promise<Server> => {
  const server = await startServer({ url: database.url });
  servers.push(server);
  return server;
};
const statusOf = async (server: Server, id: string) => (await server.request('GET', `/v1/queue/${id}`)).status;

before(async () => {
  database = await createDatabase();
  psql = new pg.Client({ connectionString: database.url });
  await psql.connect();
});
after(async () => {
  await psql?.end();
  await Promise.all(servers.map((server) => server.stop()));
  await database?.drop();
});

/** Moves all rows of tasks to an earlier day, which gets its partitions. */
async function moveBack(days: number): Promise<string> {
  const [{ day, from, to }] = await sql(
    `select to_char(d, 'YYYYMMDD') as day, tasklane.first_id_of(d at time zone 'UTC') as from,
            tasklane.first_id_of((d + interval '1 day') at time zone 'UTC') as to
     from (select date_trunc('day', now() at time zone 'UTC') - make_interval(days => $1) as d) d`,
    [days],
  );
  for (const table of ['task', 'result', 'task_event', 'task_attempt'])
    await sql(
      `create table tasklane.${table}_${day} partition of tasklane.${table} for values from (${from}) to (${to})`,
    );
  const shift = `- ${days} * 86400::bigint * 10000000000`;
  for (const table of ['task', 'result', 'task_event', 'ready'])
    await sql(`update tasklane.${table} set id = id ${shift}`);
  await sql(`update tasklane.callback_delivery set task_id = task_id ${shift}`);
  await sql('update tasklane.result set completed_at = completed_at - make_interval(days => $1)', [days]);
  return day;
}

test('what has ended goes by the age and the count of its queue, and what waits stays, however old', async () => {
  const [one, two] = [await start(), await start()];
  for (const [queue, settings] of Object.entries({
    brief: { retention_seconds: 1 },
    few: { max_completed_tasks: 2 },
    long: {},
  }))
    await talk(one).register(queue, settings);
  const finish = async (queue: string) => {
    const id = await talk(two).put(queue);
    await talk(two).takeOne(queue);
    await talk(two).complete(id);
    return id;
  };
  const brief = await finish('brief');
  const few = [await finish('few'), await finish('few'), await finish('few'), await finish('few')];
  const long = await finish('long');
  const waiting = await talk(one).put('brief');
  const asked = talk(two).ask('few');
  const [{ task_id: blocking }] = (await talk(one).take('few', { wait: 30 })) as [Json];
  await talk(one).complete(blocking, { answer: 42 });
  assert.deepEqual((await asked).json, { answer: 42 });

  await until('the old and the surplus are gone', async () => {
    const statuses = await Promise.all([brief, ...few].map((id) => statusOf(one, id)));
    // of few, the last two ends stay: the blocking one is the last
    return statuses.join() === '404,404,404,404,200';
  });
  assert.equal(await statusOf(one, long), 200);
  assert.equal((await talk(one).task(waiting)).status, 'waiting');
  assert.equal((await one.request('GET', '/v1/queue/brief:0/stats')).json.total_completed_cnt, 1);
  const refused = await one.request('POST', `/v1/queue/${brief}/complete`, { status_code: 200, body: {} });
  assert.equal(refused.status, 404);
  assert.equal((await one.request('GET', `/v1/queue/${brief}/events`)).status, 404);
});

test('a database whose old days went is started, used and migrated as before', async () => {
  const receiver = await startReceiver();
  try {
    const [before] = servers as [Server];
    await talk(before).register('aged');
    const old = await talk(before).put('aged', { callback_url: receiver.url() });
    await talk(before).takeOne('aged');
    await talk(before).complete(old);
    (await receiver.next()).answer(200);
    await until('it is delivered', async () => {
      const { json } = await before.request('GET', '/v1/callbacks?status=delivered');
      return json.data.length === 1;
    });
    await Promise.all(servers.splice(0).map((server) => server.stop()));

    await sql('delete from tasklane.ready');
    await sql('delete from tasklane.task t where not exists (select from tasklane.result r where r.id = t.id)');
    const day = await moveBack(20);
    const server = await start();
    await sql(`select graphile_worker.add_job('drop_old_partitions')`);
    await until('the day is dropped', async () => {
      const [{ gone }] = await sql(`select to_regclass('tasklane.task_${day}') is null as gone`);
      return gone;
    });
    assert.deepEqual((await server.request('GET', '/v1/tasks')).json, { data: [], has_more: false });
    assert.deepEqual((await server.request('GET', '/v1/callbacks')).json, { data: [], has_more: false });
    await server.stop();
    servers.length = 0;

    const next = await start();
    const id = await talk(next).put('aged');
    await talk(next).takeOne('aged');
    await talk(next).complete(id, { again: true });
    assert.deepEqual((await talk(next).task(id)).result.body, { again: true });
    const { json } = await next.request('GET', '/v1/tasks?queue=aged');
    assert.deepEqual(
      json.data.map((task: Json) => task.task_id),
      [id],
    );
    const stats = (await next.request('GET', '/v1/queue/aged:0/stats')).json;
    assert.deepEqual([stats.waiting, stats.total_put_cnt, stats.total_completed_cnt], [0, 2, 2]);
  } finally {
    await receiver.close();
  }
});

test('a new partition has every index of its parent', async () => {
  await until('no transaction is in the way', () =>
    sql('select tasklane.make_partitions(9)').catch((error) => {
      // Its promise: nothing is changed then, try again. The servers of this file drop partitions meanwhile.
      if (error.code === '55P03') return undefined;
      throw error;
    }),
  );
  const missing = await sql(`
    select p.relname as parent, c.relname as partition, i.indexrelid::regclass::text as index
    from pg_inherits h join pg_class c on c.oid = h.inhrelid join pg_class p on p.oid = h.inhparent
    join pg_index i on i.indrelid = p.oid
    where p.relname in ('task', 'result', 'task_event', 'task_attempt') and not exists (
      select from pg_inherits x join pg_index j on j.indexrelid = x.inhrelid
      where x.inhparent = i.indexrelid and j.indrelid = c.oid and j.indisvalid)`);
  assert.deepEqual(missing, []);
  const [{ options }] = await sql(`
    select array_agg(distinct x.reloptions) as options from pg_inherits h join pg_class x on x.oid = h.inhrelid
    where h.inhparent = 'tasklane.result_completed'::regclass`);
  assert.deepEqual(options, [['pages_per_range=32', 'autosummarize=on']]);
});
