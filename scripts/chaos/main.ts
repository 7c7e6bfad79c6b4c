import { type ChildProcess, spawn } from 'node:child_process';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { pino } from 'pino';
import { startEmbeddedPostgres } from '../../server/db/embedded.ts';
import { SERVER } from '../server.ts';
import { type Answer, account, type Evidence, type Found, type Take } from './account.ts';
import { calm, disturb, FAULT_NAMES } from './network.ts';
import { startPostgresProxy } from './postgres-proxy.ts';
import { killPostmaster } from './postmaster.ts';
import { mulberry32 } from './random.ts';

const { values: flags } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    'postgres-proxy': { type: 'boolean', default: false },
    seed: { type: 'string', default: String(Date.now() % 100_000) },
    help: { type: 'boolean', default: false, short: 'h' },
  },
});
if (flags.help) {
  console.log(`npm run chaos -- [--seconds N] [--seed N] [--postgres-proxy]   puts a mixed load on two servers while workers, servers and
Postgres are killed with -9 in random order, and accounts for every task. Status 1 when one is lost, ended twice, or wrong.
--postgres-proxy: nothing is killed; a proxy before Postgres swallows, delays, half-closes and cuts, and no request may hang.`);
  process.exit(0);
}

const SECONDS = Number(flags.seconds);
const SERVERS = 2;
const WORKERS = 8;
const CLIENTS = 12;
/** A call to Postgres is given up after so long while the network misbehaves. */
const DATABASE_SECONDS = 2;
/** The longest that a request may take then: to know the key, to put, to wait for 5 s, to look once more. */
const HANGS_MS = 5000 + 4 * DATABASE_SECONDS * 1000;
/** After the load, what is left must become less within this, until nothing is. */
const SETTLE_MS = 30_000;
const KEY = 'chaos-admin-key-0123456789';
const ENDPOINT = '/v1/chat/completions';
const NARROW = 3;
const POSTGRES = 'kill -9 of a Postgres';
const random = mulberry32(Number(flags.seed));
const pick = <Item>(items: readonly Item[]) => items[Math.floor(random() * items.length)] as Item;

const dataDir = await mkdtemp(join(tmpdir(), 'tasklane-chaos-'));
// As root, Postgres runs as a user who must be able to enter the folder.
await chmod(dataDir, 0o711);
const logFile = join(dataDir, 'workers.jsonl');
const children = new Set<ChildProcess>();
const killAll = () => {
  for (const child of children) child.kill('SIGKILL');
};
process.once('exit', killAll);

const acknowledged = new Map<string, string>();
const keyed = new Map<string, string[]>();
const cancelled: string[] = [];
const told: { taskId: string; marker: string; body: string }[] = [];
/** What was killed, or done to the network, and how often. */
const done: Record<string, number> = {};
let stopping = false;
let markers = 0;
let longestMs = 0;

const postgres = await startEmbeddedPostgres({ dataDir, owner: 'chaos', log: pino({ level: 'silent' }) });
const proxy = flags['postgres-proxy'] ? await startPostgresProxy(postgres.url) : undefined;
const receiver = createServer(async (req, res) => {
  const { body } = JSON.parse(await text(req)) as { body?: { echo: string } };
  // A callback of a task that ended without an answer has none.
  if (body) told.push({ taskId: String(req.headers['x-task-id']), marker: body.echo, body: JSON.stringify(body) });
  res.writeHead(random() < 0.9 ? 204 : 500).end();
}).listen(0, '127.0.0.1');
await new Promise((resolve) => receiver.once('listening', resolve));
const callbackUrl = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`;

try {
  process.exitCode = (await run()) ? 0 : 1;
} finally {
  killAll();
  receiver.close();
  receiver.closeAllConnections();
  await proxy?.stop();
  await postgres.stop();
  await rm(dataDir, { recursive: true, force: true });
}

async function run(): Promise<boolean> {
  const servers: { url: string; child: ChildProcess }[] = [];
  for (let n = 0; n < SERVERS; n++) servers.push(await startServer('0'));
  const urls = servers.map(({ url }) => url);
  const patient = { max_attempts: 100, retry: { initial_seconds: 0.1, max_seconds: 1 } };
  for (const [queue, settings] of Object.entries({
    plain: patient,
    sequence: patient,
    narrow: { ...patient, max_running: NARROW },
    fragile: { max_attempts: 1 },
  }))
    await call(urls, '/v1/queue/register', { queue, endpoint: ENDPOINT, ...settings });

  let workerNumber = 0;
  const workers = Array.from({ length: WORKERS }, (_, slot) => startWorker(slot, workerNumber++, urls));
  const peaks = watchPeaks();
  const clients = Array.from({ length: CLIENTS }, (_, n) => client(n, urls));

  const until = Date.now() + SECONDS * 1000;
  const restarts = new Map<number, Promise<void>>();
  let deck: string[] = [];
  while (Date.now() < until) {
    await sleep(300 + random() * 900);
    // A shuffled deck, so that a short run has each kind, too.
    if (deck.length === 0) {
      deck = (proxy ? FAULT_NAMES : ['kill -9 of a worker', 'kill -9 of a worker', 'kill -9 of a server', POSTGRES])
        .map((kind) => ({ kind, place: random() }))
        .sort((a, b) => a.place - b.place)
        .map(({ kind }) => kind);
    }
    const what = deck.pop() as string;
    done[what] = (done[what] ?? 0) + 1;
    if (proxy) disturb(proxy, what);
    else if (what === 'kill -9 of a worker') {
      const slot = Math.floor(random() * WORKERS);
      workers[slot]?.kill('SIGKILL');
      workers[slot] = startWorker(slot, workerNumber++, urls);
    } else if (what === 'kill -9 of a server') {
      const slot = Math.floor(random() * SERVERS);
      await restarts.get(slot);
      const { child, url } = servers[slot] as (typeof servers)[number];
      child.kill('SIGKILL');
      restarts.set(
        slot,
        startServer(new URL(url).port).then((started) => {
          servers[slot] = started;
        }),
      );
    } else killPostmaster(dataDir);
  }
  if (proxy) calm(proxy);
  await Promise.all(restarts.values());
  stopping = true;
  await Promise.all(clients);
  const settled = await settle();
  const found = await readTasks();
  const log = await readFile(logFile, 'utf8');
  const entries = log
    .split('\n')
    .filter((line) => line.endsWith('}}'))
    .map((line) => JSON.parse(line) as { take?: Take; answer?: Answer });
  const evidence: Evidence = {
    found,
    acknowledged,
    keyed,
    cancelled,
    told,
    takes: entries.flatMap(({ take }) => take ?? []),
    answers: entries.flatMap(({ answer }) => answer ?? []),
    peaks: await peaks(),
  };
  const { problems, figures } = account(evidence);
  if (!settled) problems.unshift(`nothing more ended in ${SETTLE_MS / 1000} s after the load: ${await whatIsLeft()}`);
  if (proxy && longestMs > HANGS_MS) problems.unshift(`a request took ${Math.round(longestMs)} ms`);
  print({ ...done, 'longest request, ms': Math.round(longestMs), ...figures });
  for (const problem of problems.slice(0, 50)) console.log(`WRONG: ${problem}`);
  console.log(problems.length === 0 ? 'Every task is accounted for.' : `${problems.length} things are wrong.`);
  return problems.length === 0;
}

async function startServer(port: string): Promise<{ url: string; child: ChildProcess }> {
  for (;;) {
    const child = spawn(process.execPath, SERVER, {
      cwd: join(import.meta.dirname, '..', '..'),
      env: {
        PATH: process.env.PATH,
        PORT: port,
        DATABASE_URL: proxy?.url ?? postgres.url,
        ...(proxy && { TASKLANE_DATABASE_SECONDS: String(DATABASE_SECONDS) }),
        TASKLANE_ADMIN_KEY: KEY,
        TASKLANE_LOG_LEVEL: 'fatal',
        TASKLANE_CALLBACK_ALLOW: '127.0.0.0/8',
      },
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    children.add(child);
    let printed = '';
    const url = await new Promise<string | undefined>((resolve) => {
      child.once('exit', () => {
        children.delete(child);
        resolve(undefined);
      });
      child.stdout?.on('data', (chunk) => {
        printed += chunk;
        const found = /listening on (http:\S+)/.exec(printed)?.[1];
        if (found) resolve(found);
      });
    });
    // It ends by itself when Postgres is away as it starts; whoever runs it starts it again.
    if (url) return { url, child };
    await sleep(200);
  }
}

function startWorker(slot: number, number: number, urls: readonly string[]): ChildProcess {
  const args = [join(import.meta.dirname, 'worker.ts'), logFile, `${slot}-${number}`, ...urls];
  const child = spawn(process.execPath, args, { env: { PATH: process.env.PATH, WORKER_KEY: KEY }, stdio: 'ignore' });
  children.add(child);
  child.once('exit', () => children.delete(child));
  return child;
}

async function call(urls: readonly string[], path: string, body: unknown, headers: Record<string, string> = {}) {
  const began = performance.now();
  try {
    return await fetch(`${pick(urls)}${path}`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${KEY}`, 'Content-Type': 'application/json', ...headers },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(proxy ? 2 * HANGS_MS : 10_000),
    });
  } finally {
    longestMs = Math.max(longestMs, performance.now() - began);
  }
}

/** Puts tasks of one kind after the other until the load stops. What fails was not acknowledged, and may be there or not. */
async function client(number: number, urls: readonly string[]): Promise<void> {
  const kinds = [putCallback, putBlocking, putStreaming, putMany, putKeyed, putAndCancel];
  for (let n = number; !stopping; n++) {
    await (kinds[n % kinds.length] as (typeof kinds)[number])(urls).catch(() => undefined);
    await sleep(random() * 20);
  }
}

function newPut(more: object = {}) {
  const marker = `m${++markers}`;
  const queue = pick(['plain', 'plain', 'plain', 'sequence', 'narrow', 'fragile']);
  const level = queue === 'plain' || queue === 'sequence' ? pick([0, 1]) : 0;
  const delay = random() < 0.1 ? { delay_seconds: random() * 2 } : {};
  const priority = pick(['low', 'normal', 'high']);
  return { marker, body: { queue, level, priority, endpoint: ENDPOINT, data: { marker }, ...delay, ...more } };
}

async function putCallback(urls: readonly string[]): Promise<void> {
  const { marker, body } = newPut({ callback_url: callbackUrl });
  const answer = await call(urls, '/v1/queue/put', body);
  if (answer.status === 200) acknowledged.set(((await answer.json()) as { data: string }).data, marker);
}

async function putBlocking(urls: readonly string[]): Promise<void> {
  const { marker, body } = newPut({ response_mode: 'blocking', timeout: 5 });
  const answer = await call(urls, '/v1/queue/put', body);
  const taskId = answer.headers.get('x-task-id');
  if (answer.status === 200 && taskId) {
    acknowledged.set(taskId, marker);
    told.push({ taskId, marker, body: await answer.text() });
  }
}

async function putStreaming(urls: readonly string[]): Promise<void> {
  const { marker, body } = newPut({ response_mode: 'streaming', timeout: 5 });
  const answer = await call(urls, '/v1/queue/put', body);
  const taskId = answer.headers.get('x-task-id');
  if (answer.status !== 200 || !taskId) return;
  acknowledged.set(taskId, marker);
  const completion = /event:completion\ndata:(.*)\n/.exec(await answer.text())?.[1];
  if (completion) told.push({ taskId, marker, body: JSON.stringify(JSON.parse(completion).body) });
}

async function putMany(urls: readonly string[]): Promise<void> {
  const puts = Array.from({ length: 20 }, () => newPut());
  const answer = await call(urls, '/v1/queue/puts', { tasks: puts.map(({ body }) => body) });
  if (answer.status !== 200) return;
  const { data } = (await answer.json()) as { data: string[] };
  for (const [index, taskId] of data.entries()) acknowledged.set(taskId, puts[index]?.marker as string);
}

/** Repeats until it is acknowledged, and then once more: it must be one task. */
async function putKeyed(urls: readonly string[]): Promise<void> {
  const { marker, body } = newPut();
  const ids: string[] = [];
  for (let tries = 0; ids.length < 2 && tries < 200; tries++) {
    const answer = await call(urls, '/v1/queue/put', body, { 'Idempotency-Key': marker }).catch(() => undefined);
    if (answer?.status === 200) ids.push(((await answer.json()) as { data: string }).data);
    else await sleep(50);
  }
  for (const taskId of ids) acknowledged.set(taskId, marker);
  keyed.set(marker, ids);
}

async function putAndCancel(urls: readonly string[]): Promise<void> {
  const { marker, body } = newPut();
  const put = await call(urls, '/v1/queue/put', body);
  if (put.status !== 200) return;
  const taskId = ((await put.json()) as { data: string }).data;
  acknowledged.set(taskId, marker);
  const answer = await call(urls, `/v1/queue/${taskId}/cancel`, {});
  if (answer.status === 202) cancelled.push(taskId);
}

/** Runs a query, while Postgres may be away. */
async function query<Row extends pg.QueryResultRow>(sql: string): Promise<Row[] | undefined> {
  const db = new pg.Client({ connectionString: postgres.url, connectionTimeoutMillis: 2000, query_timeout: 30_000 });
  db.on('error', () => undefined);
  try {
    await db.connect();
    return (await db.query<Row>(sql)).rows;
  } catch {
    return undefined;
  } finally {
    await db.end().catch(() => undefined);
  }
}

/** Looks all the while how many tasks run at once where that is limited; gives the most that was seen. */
function watchPeaks() {
  const seen: Record<string, number> = { sequence: 0, narrow: 0 };
  let over = false;
  const watching = (async () => {
    while (!over) {
      const rows = await query<{ queue: string; running: number }>(
        `select q.queue, count(*)::int as running from tasklane.running r join tasklane.queue q using (queue_id)
         where q.queue in ('sequence', 'narrow') group by q.queue`,
      );
      for (const { queue, running } of rows ?? []) seen[queue] = Math.max(seen[queue] ?? 0, running);
      await sleep(20);
    }
  })();
  return async () => {
    over = true;
    await watching;
    return [
      { queue: 'sequence', seen: seen.sequence ?? 0, allowed: 1 },
      { queue: 'narrow', seen: seen.narrow ?? 0, allowed: NARROW },
    ];
  };
}

/** Waits until nothing waits, runs or is deferred. (A callback that a killed server had in hand is sent again within 45 s; not waited for.) */
async function settle(): Promise<boolean> {
  let least = Number.POSITIVE_INFINITY;
  for (let late = Date.now() + SETTLE_MS; Date.now() < late; await sleep(500)) {
    const rows = await query<{ left: number }>(
      `select (select count(*) from tasklane.ready)::int + (select count(*) from tasklane.running)::int
            + (select count(*) from tasklane.deferred)::int as left`,
    );
    const left = rows?.[0]?.left ?? least;
    if (left === 0) return true;
    if (left < least) late = Date.now() + SETTLE_MS;
    least = Math.min(least, left);
    // Past deadlines above level 0 are seen to once a minute, and after an outage in two or three; here it is asked for.
    await query(`select graphile_worker.add_job('expire', job_key := 'chaos')`);
  }
  return false;
}

/** Where the tasks are that have not ended, and whether there is somebody to end them. */
async function whatIsLeft(): Promise<string> {
  const rows = await query<{ what: string }>(
    `select format('%s in %s, expires %s', count(*), a.place, min(a.expires_at)) as what
     from (select 'ready' as place, expires_at from tasklane.ready union all select 'running', expires_at from tasklane.running
           union all select 'deferred', expires_at from tasklane.deferred) a group by a.place
     union all select format('job %s, %s attempts, run at %s, locked %s, %s', task_identifier, attempts, run_at, locked_at, last_error) from graphile_worker.jobs`,
  );
  return (rows ?? []).map(({ what }) => what).join('; ');
}

async function readTasks(): Promise<Found[]> {
  const rows = await query<Found>(
    `select s.task_id as "taskId", s.data ->> 'marker' as marker, s.status, s.attempt, s.body::text as body,
            (select count(*) from tasklane.result r where r.id = s.id)::int as results
     from tasklane.task_status s`,
  );
  if (!rows) throw new Error('the tasks could not be read');
  return rows;
}

function print(figures: Record<string, number>): void {
  const rows = [
    ['seed', flags.seed],
    ...Object.entries(figures).map(([what, count]) => [what, count.toLocaleString('en')]),
  ] as [string, string][];
  const width = Math.max(...rows.map(([what]) => what.length));
  for (const [what, count] of rows) console.log(`${what.padEnd(width)}  ${count.padStart(8)}`);
}
