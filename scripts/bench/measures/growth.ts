import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { type Bench, DATA, ENDPOINT, fill, putOf, register } from '../bench.ts';
import { type Client, client, KEY } from '../http.ts';
import { type Findings, median, type Row } from '../report.ts';

/** What one call costs, quiet, one at a time: the median of so many, in ms. */
type Costs = { put: number; take: number; complete: number; read: number; list: number };

/** How what a call costs grows with what there is: waiting tasks, finished tasks, lanes, tenants, servers, and the size of a task. */
export async function growth(bench: Bench): Promise<Findings> {
  const most = bench.quick ? 100_000 : 10_000_000;
  const sizes = [1_000, 10_000, 100_000, 1_000_000, 10_000_000].filter((size) => size <= most);
  return {
    rows: [
      ...(await more(bench, 'waiting', 'tasks wait in the lane', sizes, fill)),
      ...(await more(bench, 'finished', 'finished tasks are kept', sizes, end)),
      ...(await lanes(bench)),
      ...(await tenants(bench, sizes.slice(0, 3))),
      ...(await instances(bench)),
      ...(await payloads(bench)),
    ],
  };
}

/** The same database with ever more of something, which `add` brings there. */
async function more(
  bench: Bench,
  name: string,
  what: string,
  sizes: readonly number[],
  add: (database: string, count: number) => Promise<void>,
): Promise<Row[]> {
  return withServer(bench, name, async (http, database) => {
    const rows: Row[] = [];
    let there = 0;
    for (const size of sizes) {
      await add(database, size - there);
      there = size;
      rows.push(row(`${size.toLocaleString('en')} ${what}`, await costs(http, bench)));
    }
    return rows;
  });
}

async function lanes(bench: Bench): Promise<Row[]> {
  return withServer(bench, 'lanes', async (http, _, url) => {
    const rows: Row[] = [];
    const names: string[] = ['bench'];
    for (const size of [1, 10, 100, 1_000]) {
      for (; names.length < size; names.push(`lane-${names.length}`)) await register(url, `lane-${names.length}`);
      const lanes = names.map((name) => `${name}:1`);
      rows.push(
        row(
          `a take lists ${size.toLocaleString('en')} lane${size > 1 ? 's' : ''}`,
          await costs(http, bench, { lanes }),
        ),
      );
    }
    return rows;
  });
}

async function tenants(bench: Bench, sizes: readonly number[]): Promise<Row[]> {
  return withServer(bench, 'tenants', async (http, database) => {
    const db = new pg.Client({ connectionString: database });
    await db.connect();
    const rows: Row[] = [];
    let there = 0;
    for (const size of sizes) {
      await db.query('select tasklane.make_tenant($1 || n) from generate_series($2::int, $3::int) n', [
        't',
        there,
        size - 1,
      ]);
      there = size;
      const keys = [];
      for (let n = 0; n < 50; n++) {
        const tenant = `t${Math.floor((n * size) / 50)}`;
        const made = await http.post('/v1/keys', JSON.stringify({ role: 'client', tenant }));
        keys.push((JSON.parse(made) as { key: string }).key);
      }
      rows.push(row(`${size.toLocaleString('en')} tenants, 50 of them put`, await costs(http, bench, { keys })));
    }
    await db.end();
    return rows;
  });
}

async function instances(bench: Bench): Promise<Row[]> {
  return withServer(bench, 'instances', async (http, database) => {
    const rows: Row[] = [];
    let there = 1;
    for (const count of [1, 2, 4, 8]) {
      for (; there < count; there++) await bench.server(database);
      rows.push(row(`${count} server process${count > 1 ? 'es' : ''} on the database`, await costs(http, bench)));
    }
    return rows;
  });
}

async function payloads(bench: Bench): Promise<Row[]> {
  return withServer(bench, 'payloads', async (http) => {
    const rows: Row[] = [];
    for (const [name, bytes] of [
      ['1 KB', 1_000],
      ['100 KB', 100_000],
      ['5 MB', 5_000_000],
    ] as const) {
      // Random, as base64: text that compresses would never reach the disk.
      const content = randomBytes(Math.ceil((bytes * 3) / 4))
        .toString('base64')
        .slice(0, bytes);
      const put = JSON.stringify({ queue: 'bench', endpoint: ENDPOINT, level: 1, data: { model: 'm', content } });
      rows.push(row(`tasks and answers of ${name}`, await costs(http, bench, { put, answer: { content }, size: 1 })));
    }
    return rows;
  });
}

async function withServer(
  bench: Bench,
  name: string,
  run: (http: Client, database: string, url: string) => Promise<Row[]>,
): Promise<Row[]> {
  const database = await bench.database(`growth_${name}`);
  const server = await bench.server(database);
  const http = client(server.url, 1);
  try {
    return await run(http, database, server.url);
  } finally {
    http.close();
    await server.stop();
  }
}

/** Tasks come, are taken by ten, are answered together and read, over and over. */
async function costs(
  http: Client,
  bench: Bench,
  options: { lanes?: string[]; keys?: string[]; put?: string; answer?: unknown; size?: number } = {},
): Promise<Costs> {
  const { lanes = ['bench:1'], keys = [KEY], put = putOf('bench'), answer = { answered: true }, size = 10 } = options;
  const take = JSON.stringify({ queues: lanes, size });
  const times = {
    put: [] as number[],
    take: [] as number[],
    complete: [] as number[],
    read: [] as number[],
    list: [] as number[],
  };
  const timed = async (what: keyof typeof times, call: () => Promise<string>) => {
    const started = performance.now();
    const text = await call();
    times[what].push(performance.now() - started);
    return text;
  };
  for (let round = 0; round < (bench.quick ? 40 : 300); round++) {
    for (let n = 0; n < size; n++) {
      await timed('put', () => http.post('/v1/queue/put', put, keys[(round * size + n) % keys.length]));
    }
    const taken = Object.values(
      JSON.parse(await timed('take', () => http.post('/v1/queue/take', take))) as Record<string, { task_id: string }[]>,
    ).flat();
    if (taken.length !== size) throw new Error(`a take of ${size} gave ${taken.length}`);
    const results = taken.map(({ task_id }) => ({ task_id, status_code: 200, body: answer }));
    await timed('complete', () => http.post('/v1/queue/complete', JSON.stringify({ results })));
    await timed('read', () => http.get(`/v1/queue/${taken[0]?.task_id}`));
    if (round % 10 === 0) await timed('list', () => http.get('/v1/tasks?limit=20'));
  }
  return {
    put: median(times.put),
    take: median(times.take),
    complete: median(times.complete),
    read: median(times.read),
    list: median(times.list),
  };
}

/** Tasks that were put and answered, as if long ago. */
async function end(database: string, count: number): Promise<void> {
  const db = new pg.Client({ connectionString: database });
  await db.connect();
  await db.query('select tasklane.make_lane(tasklane.queue_of($1), 1)', ['bench']);
  await db.query(
    `with made as materialized (
       select tasklane.first_id_of(now()) + nextval('tasklane.task_number') as id, l.lane_id
       from generate_series(1, $1), tasklane.lane l join tasklane.queue q using (queue_id) where q.queue = 'bench' and l.level = 1
     ), task as (
       insert into tasklane.task (id, created_at, expires_at, lane_id, tenant_id, mode, rank, data)
       select id, now(), now() + interval '1 day', lane_id, 1, 'callback', 95, $2::json from made
     )
     insert into tasklane.result (id, completed_at, taken_at, outcome, attempt, status_code, body)
     select id, now(), now(), 'succeeded', 1, 200, '{"answered":true}' from made`,
    [count, JSON.stringify(DATA)],
  );
  await db.query('vacuum analyze tasklane.task, tasklane.result');
  await db.end();
}

/** Said at once as well: the whole takes longer than one waits without a sign. */
function row(work: string, costs: Costs): Row {
  const note = Object.entries(costs)
    .map(([what, ms]) => `${what} ${ms.toFixed(2)}`)
    .join('  ');
  console.error(`  ${work}: ${note}`);
  return { work, note };
}
