import { readFile } from 'node:fs/promises';
import pg from 'pg';
import { PUT_TYPES, putArguments } from '../../server/db/put-tasks.ts';
import { type Answer, account, type Found, type Take } from '../chaos/account.ts';
import { ENDPOINT, request } from './load.ts';
import type { Report } from './report.ts';
import { type Cluster, query, type Workshop } from './workshop.ts';

const PROXY = new URL('proxy.sql', import.meta.url);
const QUEUES = ['ada', 'bea', 'cleo', 'dora', 'eva', 'fay', 'gwen', 'hana'];
/** One of them, whose hash says shard 1, and which is placed on shard 0. */
const PLACED = 'hana';
const TASKS = 6000;
const PER_CALL = 100;
const CLIENTS = 2;

type Put = { id: string; task_id: string; state: string | null; code: string | null; ord: number };
type Taken = { id: string; task_id: string; attempt: number; queue: string; turn: number; data: string };

/** Queues over two Postgres by the hash of their names: put, taken and answered through one database of PL/Proxy functions. */
export async function tryShards(workshop: Workshop, report: Report): Promise<void> {
  const shards = [await workshop.startPostgres('shard-0'), await workshop.startPostgres('shard-1')];
  // A server for each: it makes the schema, and does what is due: leases, deadlines, callbacks, retention.
  const servers = [];
  for (const [digit, { url }] of shards.entries()) {
    servers.push(await workshop.startServer({ DATABASE_URL: url }));
    await query(url, `alter sequence tasklane.task_number increment by 10 restart with ${10 + digit}`);
  }
  const proxy = await workshop.startPostgres('proxy');
  await query(proxy.url, await proxySql(shards));

  await query(proxy.url, 'insert into tasklane.placement values ($1, 0)', [PLACED]);
  for (const queue of QUEUES)
    await query(proxy.url, 'select tasklane.register_queue($1, $2, $3)', [queue, ENDPOINT, '{"max_attempts": 100}']);
  const placed = await Promise.all(
    shards.map(({ url }) => query<{ queue: string }>(url, 'select queue from tasklane.queue order by 1')),
  );
  const homes = new Map(placed.flatMap((rows, shard) => rows.map(({ queue }) => [queue, shard] as const)));
  for (const [shard, rows] of placed.entries())
    report.say(`shard ${shard} has ${rows.map(({ queue }) => queue).join(', ')}`);
  report.check(
    'each queue lives on one shard, and each shard has some',
    homes.size === QUEUES.length && placed.every((rows) => rows.length > 0),
  );

  report.check(`${PLACED} lives where it was placed`, homes.get(PLACED) === 0);

  const acknowledged = new Map<string, string>();
  const takes: Take[] = [];
  const answers: Answer[] = [];
  const ids: { id: string; queue: string }[] = [];
  let began = performance.now();
  await inTurns(proxy.url, async (client, calls) => {
    for (let n = 0; n < calls; n++) {
      const tasks = Array.from({ length: PER_CALL }, () => {
        const marker = `m${ids.length + acknowledged.size}-${Math.random().toString(36).slice(2)}`;
        return { queue: QUEUES[Math.floor(Math.random() * QUEUES.length)] as string, marker };
      });
      const rows = await put(client, tasks);
      for (const [index, row] of rows.entries()) {
        acknowledged.set(row.task_id, tasks[index]?.marker as string);
        ids.push({ id: row.id, queue: tasks[index]?.queue as string });
      }
    }
  });
  report.figure('puts a second through the proxy', Math.round((TASKS / (performance.now() - began)) * 1000));
  report.check('every put has an id of its own', new Set(ids.map(({ id }) => id)).size === TASKS);
  report.check(
    'the last digit of an id is its shard',
    ids.every(({ id, queue }) => Number(id.at(-1)) === homes.get(queue)),
  );

  const lanes = QUEUES.map((queue) => `${queue}:0`);
  let misplaced = 0;
  began = performance.now();
  await inTurns(proxy.url, async (client) => {
    for (;;) {
      const taken = await take(client, lanes, PER_CALL);
      if (taken.length === 0) break;
      for (const { task_id: taskId, attempt } of taken) takes.push({ taskId, attempt });
      misplaced += taken.filter(({ queue, turn }) => lanes[turn - 1] !== `${queue}:0`).length;
      const verdicts = await complete(client, taken);
      for (const [index, verdict] of verdicts.entries()) {
        const { task_id: taskId, attempt } = taken[index] as Taken;
        answers.push({ taskId, attempt, accepted: verdict === 'completed' });
      }
    }
  });
  report.figure(
    'takes with their answers a second through the proxy',
    Math.round((TASKS / (performance.now() - began)) * 1000),
  );
  report.check(
    'every task was taken once, and says its lane',
    takes.length === TASKS && misplaced === 0,
    `${takes.length} takes`,
  );

  const found = (await Promise.all(shards.map(({ url }) => readTasks(url)))).flat();
  const { problems } = account({
    ...{ found, acknowledged, takes, answers },
    ...{ keyed: new Map(), cancelled: [], told: [], peaks: [] },
  });
  for (const problem of problems.slice(0, 10)) report.say(`WRONG: ${problem}`);
  const accepted = answers.filter((answer) => answer.accepted).length;
  report.check(
    'every put and answer that was acknowledged is on a shard, once',
    problems.length === 0 && accepted === TASKS,
    `${found.length} tasks`,
  );
  const stats = `select sum(total_put_cnt)::int as put, sum(total_completed_cnt)::int as ended from tasklane.queue_stats`;
  const [sums] = await query<{ put: number; ended: number }>(proxy.url, stats);
  report.check('queue_stats of the proxy adds up', sums?.put === TASKS && sums.ended === TASKS, JSON.stringify(sums));

  await checkRefusals(proxy, homes, report);
  await checkServers(
    servers.map(({ url }) => url),
    proxy,
    homes,
    report,
  );
  await checkLostShard(proxy, shards[1] as Cluster, homes, report);
  const outcome = await workshop.startServer({ DATABASE_URL: proxy.url }, 10_000).then(
    () => 'it starts',
    (error: Error) => error.message.split('\n').at(-1) as string,
  );
  report.check('a server does not start on the proxy', outcome !== 'it starts', outcome);
  const language = `select l.lanname as name from pg_proc p join pg_language l on l.oid = p.prolang where p.proname = 'put_parts'`;
  report.check('the proxy still has its functions', (await query(proxy.url, language))[0]?.name === 'plproxy');
}

async function proxySql(shards: readonly Cluster[]): Promise<string> {
  const parts = shards.map(({ port }, index) => `p${index} 'host=127.0.0.1 port=${port} dbname=tasklane'`);
  const { password } = new URL(shards[0]?.url as string);
  return `create extension plproxy;
    create server shards foreign data wrapper plproxy options (${parts.join(', ')});
    create user mapping for current_user server shards options (user 'tasklane', password '${password}');
    ${await readFile(PROXY, 'utf8')}`;
}

/** Runs `work` on CLIENTS connections at once, each with its share of the calls. */
async function inTurns(url: string, work: (client: pg.Client, calls: number) => Promise<void>): Promise<void> {
  await Promise.all(
    Array.from({ length: CLIENTS }, async () => {
      const client = new pg.Client({ connectionString: url });
      client.on('error', () => undefined);
      await client.connect();
      try {
        await work(client, TASKS / PER_CALL / CLIENTS);
      } finally {
        await client.end();
      }
    }),
  );
}

async function put(client: pg.Client, tasks: readonly { queue: string; marker: string }[]): Promise<Put[]> {
  const rest = { tenantId: 1, keyId: null, endpoint: ENDPOINT, level: 0, mode: 'callback', priority: 5 } as const;
  const none = { timeout: 86_400, callbackUrl: null, traceId: null, model: null, options: null, headers: null };
  const groups = tasks.map(({ queue, marker }) => [{ ...rest, ...none, queue, data: JSON.stringify({ marker }) }]);
  const places = PUT_TYPES.map((type, index) => `$${index + 1}::${type}`).join(', ');
  return (await client.query<Put>(`select * from tasklane.put_tasks(${places})`, putArguments(groups, null))).rows;
}

async function take(client: pg.Client, lanes: readonly string[], size: number): Promise<Taken[]> {
  const text = `select * from tasklane.take_tasks($1, array[$2::int], 'fifo', null, null, p_workers => array['grow'])`;
  return (await client.query<Taken>(text, [lanes, size])).rows;
}

/** Answers each with its own marker; gives the verdicts in their order. */
async function complete(client: pg.Client, tasks: readonly Taken[]): Promise<string[]> {
  const bodies = tasks.map(({ data }) => JSON.stringify({ echo: JSON.parse(data).marker }));
  const { rows } = await client.query<{ verdict: string }>(
    'select * from tasklane.complete_tasks($1, $2, $3, $4, $5)',
    [
      tasks.map(({ id }) => id),
      tasks.map(({ attempt }) => attempt),
      tasks.map(() => 200),
      tasks.map(() => null),
      bodies,
    ],
  );
  return rows.map(({ verdict }) => verdict);
}

/** One bad item among good ones, a repeated answer, and one of a stale attempt: as on one database. */
async function checkRefusals(proxy: Cluster, homes: ReadonlyMap<string, number>, report: Report): Promise<void> {
  await withClient(proxy.url, async (client) => {
    const rows = await put(
      client,
      [...QUEUES.slice(0, 4), 'nobody', ...QUEUES.slice(4)].map((queue) => ({ queue, marker: 'r' })),
    );
    const codes = rows.map(({ code }) => code ?? 'put');
    report.check(
      'an unknown queue is refused in its place, the others are put',
      codes[4] === 'TL404' && codes.filter((code) => code === 'put').length === QUEUES.length,
      codes.join(' '),
    );
    const taken = await take(
      client,
      QUEUES.map((queue) => `${queue}:0`),
      100,
    );
    const stale = await complete(
      client,
      taken.map((task) => ({ ...task, attempt: 7 })),
    );
    const first = await complete(client, taken);
    const again = await complete(client, taken);
    report.check(
      'answers are fenced by the attempt, and repeats are known',
      taken.length === homes.size &&
        stale.every((verdict) => verdict === 'running') &&
        first.every((verdict) => verdict === 'completed') &&
        again.every((verdict) => verdict === 'repeated'),
      [stale[0], first[0], again[0]].join(', '),
    );
  });
}

/** What was put through the proxy is taken and answered over HTTP from the server of its shard. */
async function checkServers(
  urls: readonly string[],
  proxy: Cluster,
  homes: ReadonlyMap<string, number>,
  report: Report,
): Promise<void> {
  for (const [shard, url] of urls.entries()) {
    const queue = [...homes].find(([, home]) => home === shard)?.[0] as string;
    const waiting = request(url, '/v1/queue/take', { queues: [`${queue}:0`], size: 1, wait: 5 });
    const began = performance.now();
    await withClient(proxy.url, (client) => put(client, [{ queue, marker: 'http' }]));
    const [task] = Object.values((await waiting)?.json() ?? {}).flat() as { task_id: string; attempt: number }[];
    const woken = Math.round(performance.now() - began);
    const done =
      task && (await request(url, `/v1/queue/${task.task_id}/complete`, { status_code: 200, body: { echo: 'http' } }));
    report.check(
      `the server of shard ${shard} hands out what came through the proxy`,
      done?.status === 200,
      `after ${woken} ms`,
    );
  }
}

async function checkLostShard(
  proxy: Cluster,
  lost: Cluster,
  homes: ReadonlyMap<string, number>,
  report: Report,
): Promise<void> {
  await lost.kill();
  const outcome = (shard: number) => {
    const queue = [...homes].find(([, home]) => home === shard)?.[0] as string;
    return withClient(proxy.url, (client) => put(client, [{ queue, marker: 'alone' }])).then(
      ([row]) => row?.state,
      () => 'refused',
    );
  };
  const outcomes = [await outcome(0), await outcome(1)];
  report.check(
    'with shard 1 killed, queues of shard 0 go on',
    outcomes[0] === 'waiting' && outcomes[1] === 'refused',
    outcomes.join(', '),
  );
}

async function withClient<Result>(url: string, work: (client: pg.Client) => Promise<Result>): Promise<Result> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

function readTasks(url: string): Promise<Found[]> {
  return query<Found>(
    url,
    `select s.task_id as "taskId", s.data ->> 'marker' as marker, s.status, s.attempt, s.body::text as body,
            (select count(*) from tasklane.result r where r.id = s.id)::int as results
     from tasklane.task_status s`,
  );
}
