import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { pino } from 'pino';
import { startEmbeddedPostgres } from '../../server/db/embedded.ts';
import { migrate } from '../../server/db/migrate.ts';
import { SERVER } from '../server.ts';
import { batchRows } from './batches.ts';
import { client, hammer, KEY } from './client.ts';
import { type Running, start } from './processes.ts';
import { workerRows } from './worker.ts';

const { values: flags } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    batches: { type: 'boolean', default: false },
    worker: { type: 'boolean', default: false },
    json: { type: 'string' },
    help: { type: 'boolean', default: false, short: 'h' },
  },
});
if (flags.help) {
  console.log(
    'npm run bench -- [--quick] [--batches] [--worker] [--json FILE]   measures put, take and whole lives beside a bare Express echo, and batches beside bulk; --batches: these alone; --worker: workers before a model server alone',
  );
  process.exit(0);
}

const ROUNDS = flags.quick ? 3 : 5;
const SECONDS = flags.quick ? 3 : 6;
const LIVES = flags.quick ? 5_000 : 20_000;
const DATA = {
  model: 'm',
  messages: [{ role: 'user', content: 'Say in one sentence what a queue is for. '.repeat(4) }],
};
const ENDPOINT = '/v1/chat/completions';
const PUT = JSON.stringify({ queue: 'bench', endpoint: ENDPOINT, level: 1, data: DATA });

type Run = { rate: number; p50: number; p99: number };
type Row = { work: string; rate?: number; p50?: number; p99?: number; ratio?: string };
const rows: Row[] = [];
const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1] as number;

const dataDir = await mkdtemp(join(tmpdir(), 'tasklane-bench-'));
const stops: (() => Promise<unknown>)[] = [() => rm(dataDir, { recursive: true, force: true })];
try {
  const postgres = await startEmbeddedPostgres({ dataDir, owner: 'bench', log: pino({ level: 'warn' }) });
  stops.push(postgres.stop);
  if (flags.worker) {
    for (const faults of [0, 0.05]) {
      rows.push(...(await workerRows(flags.quick ? 2_000 : 10_000, faults, (name) => server(postgres.url, name))));
    }
  } else {
    rows.push(...(await batchRows(flags.quick ? 10_000 : 50_000, ROUNDS, (name) => server(postgres.url, name))));
    if (!flags.batches) await single(postgres.url);
  }
} finally {
  for (const stop of stops.reverse()) await stop();
}

async function single(clusterUrl: string): Promise<void> {
  const echo = await start(['scripts/bench/echo.ts'], {});
  stops.push(echo.stop);
  const main = await server(clusterUrl, 'bench_main');
  await puts(echo, main);
  await takes(main);
  await lives(main);
  await main.stop();
  await backlogs(clusterUrl);
}

/** A server on a new database, with the queue registered. */
async function server(clusterUrl: string, database: string): Promise<Running & { database: string }> {
  const admin = new pg.Client({ connectionString: clusterUrl });
  await admin.connect();
  await admin.query(`create database ${database}`);
  await admin.end();
  const url = new URL(clusterUrl);
  url.pathname = `/${database}`;
  await migrate(url.href);
  const running = await start(SERVER, {
    PORT: '0',
    DATABASE_URL: url.href,
    TASKLANE_ADMIN_KEY: KEY,
    TASKLANE_LOG_LEVEL: 'warn',
    TASKLANE_BATCH_MAX_LINES: '1000000',
    TASKLANE_BATCH_MAX_BYTES: '209715200',
  });
  stops.push(running.stop);
  const http = client(running.url, 1);
  await http.post('/v1/queue/register', JSON.stringify({ queue: 'bench', endpoint: ENDPOINT }));
  await http.close();
  return { ...running, database: url.href };
}

/** Every put is one request; the echoes get the same body in turns. */
async function puts(echo: Running, tasklane: Running): Promise<void> {
  for (const connections of [32, 256]) {
    const targets = [
      { work: 'Express echo (express.json, res.json)', url: `${echo.url}/echo`, runs: [] as Run[] },
      { work: 'Express echo, nothing parsed', url: `${echo.url}/raw`, runs: [] as Run[] },
      { work: 'put', url: `${tasklane.url}/v1/queue/put`, runs: [] as Run[] },
    ];
    for (const { url } of targets) await hammer(url, PUT, connections, 2);
    for (let round = 0; round < ROUNDS; round++) {
      for (const { url, runs } of targets) runs.push(await hammer(url, PUT, connections, SECONDS));
    }
    const [usual, , ours] = targets.map(({ runs }) => runs) as [Run[], Run[], Run[]];
    const ratio = median(ours.map((one, round) => one.rate / (usual[round] as Run).rate));
    for (const { work, runs } of targets) {
      const beside = runs === ours ? { ratio: `${ratio.toFixed(2)} of the echo` } : {};
      rows.push({ work: `${work}, ${connections} connections`, ...summary(runs), ...beside });
    }
  }
}

/** What was put is taken again, by requests for one and for ten. */
async function takes(tasklane: Running): Promise<void> {
  for (const size of [1, 10]) {
    const body = JSON.stringify({ queues: ['bench:1'], size });
    const runs = [];
    for (let round = 0; round < ROUNDS; round++) {
      runs.push(await hammer(`${tasklane.url}/v1/queue/take`, body, 32, 1));
    }
    const { rate, ...rest } = summary(runs);
    rows.push({ work: `take ${size}, 32 connections (tasks/s)`, rate: rate * size, ...rest });
  }
}

/** Whole lives: put, taken by ten, completed; every task is accounted for. */
async function lives(tasklane: Running): Promise<void> {
  const http = client(tasklane.url, 400);
  await http.post('/v1/queue/register', JSON.stringify({ queue: 'life', endpoint: ENDPOINT }));
  const put = JSON.stringify({ queue: 'life', endpoint: ENDPOINT, data: DATA });
  const take = JSON.stringify({ queues: ['life:0'], size: 10, wait: 1 });
  const answer = {
    status_code: 200,
    body: { choices: [{ message: { role: 'assistant', content: 'So that nothing is lost.' } }] },
  };
  const rates: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const done = new Set<string>();
    let left = LIVES;
    const started = performance.now();
    let ended = started;
    const putters = Array.from({ length: 128 }, async () => {
      while (left-- > 0) await http.post('/v1/queue/put', put);
    });
    const workers = Array.from({ length: 16 }, async () => {
      while (done.size < LIVES) {
        const lanes = JSON.parse(await http.post('/v1/queue/take', take)) as Record<string, { task_id: string }[]>;
        await Promise.all(
          (lanes['life:0'] ?? []).map(async ({ task_id }) => {
            if (done.has(task_id)) throw new Error(`${task_id} was taken twice`);
            await http.post(`/v1/queue/${task_id}/complete`, JSON.stringify(answer));
            done.add(task_id);
            ended = performance.now();
          }),
        );
      }
    });
    await Promise.all([...putters, ...workers]);
    rates.push(LIVES / ((ended - started) / 1000));
    if (done.size !== LIVES) throw new Error(`${done.size} of ${LIVES} lives came to their end`);
  }
  await http.close();
  rows.push({ work: 'whole lives: one request a put, takes of 10, one request a complete', rate: median(rates) });
}

/** Takes of ten from a short and from a long backlog, the two asked in turns. */
async function backlogs(clusterUrl: string): Promise<void> {
  const sizes = [1_000, 1_000_000];
  const databases = [];
  for (const size of sizes) {
    const running = await server(clusterUrl, `bench_${size}`);
    const db = new pg.Client({ connectionString: running.database });
    await db.connect();
    await fill(db, size);
    await db.end();
    databases.push({ http: client(running.url, 1), times: [] as number[] });
  }
  const take = JSON.stringify({ queues: ['bench:1'], size: 10 });
  const refill = JSON.stringify({ tasks: Array.from({ length: 10 }, () => JSON.parse(PUT)) });
  const rounds = flags.quick ? 500 : 3000;
  for (let round = 0; round < rounds + 50; round++) {
    for (const { http, times } of databases) {
      await http.post('/v1/queue/puts', refill);
      const started = performance.now();
      await http.post('/v1/queue/take', take);
      if (round >= 50) times.push(performance.now() - started);
    }
  }
  const [short, long] = databases.map(({ times }) => median(times));
  for (const [index, size] of sizes.entries()) {
    const times = databases[index]?.times ?? [];
    const p50 = median(times);
    rows.push({
      work: `take 10 from ${size.toLocaleString('en')} waiting`,
      p50,
      p99: times.toSorted((a, b) => a - b)[Math.floor(times.length * 0.99)] as number,
      ...(index > 0 && { ratio: `${((long ?? 0) / (short ?? 1)).toFixed(2)} of the short backlog's` }),
    });
  }
  for (const { http } of databases) await http.close();
}

async function fill(db: pg.Client, count: number): Promise<void> {
  await db.query(`select tasklane.make_lane(tasklane.queue_of('bench'), 1)`);
  await db.query(
    `with made as materialized (
       select tasklane.first_id_of(now()) + nextval('tasklane.task_number') as id, l.lane_id
       from generate_series(1, $1), tasklane.lane l join tasklane.queue q using (queue_id) where q.queue = 'bench' and l.level = 1
     ), task as (
       insert into tasklane.task (id, created_at, expires_at, lane_id, tenant_id, mode, rank, data)
       select id, now(), now() + interval '1 day', lane_id, 1, 'callback', 95, $2::json from made
     )
     insert into tasklane.ready (id, expires_at, lane_id, attempt, rank)
     select id, now() + interval '1 day', lane_id, 0, 95 from made`,
    [count, JSON.stringify(DATA)],
  );
  await db.query('vacuum analyze tasklane.ready');
}

function summary(runs: Run[]) {
  return {
    rate: median(runs.map((run) => run.rate)),
    p50: median(runs.map((run) => run.p50)),
    p99: median(runs.map((run) => run.p99)),
  };
}

const cells = rows.map((row) => [
  row.work,
  row.rate === undefined ? '' : Math.round(row.rate).toLocaleString('en'),
  row.p50?.toFixed(1) ?? '',
  row.p99?.toFixed(1) ?? '',
  row.ratio ?? '',
]);
const lines = [['', 'per second', 'p50 ms', 'p99 ms', ''], ...cells];
const widths = lines[0]?.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0))) ?? [];
console.log(
  `${cpus()[0]?.model.trim()} x ${cpus().length}, Node ${process.version}, embedded Postgres 18, fsync on; medians of ${ROUNDS} runs in turns`,
);
for (const line of lines) {
  console.log(
    line
      .map((cell, column) =>
        column === 0 || column === 4 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
      )
      .join('  ')
      .trimEnd(),
  );
}
if (flags.json) await writeFile(flags.json, `${JSON.stringify(rows, undefined, 2)}\n`);
