import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { ENDPOINT, register, request, startLoad } from './load.ts';
import type { Report } from './report.ts';
import { type Cluster, query, type TasklaneServer, type Workshop } from './workshop.ts';

const LOAD_MS = 3000;
const CALLS = 300;

/** Two servers on one Postgres: directly, through PgBouncer in session mode, and in transaction mode with and without TASKLANE_DIRECT_URL. */
export async function tryPgbouncer(workshop: Workshop, report: Report): Promise<void> {
  const postgres = await workshop.startPostgres('postgres');
  const session = await workshop.startPgbouncer('session', 'session', postgres);
  report.say(
    `PgBouncer ${session.version}, Postgres ${workshop.major}; two servers each time, ${LOAD_MS / 1000} s of load`,
  );

  await tryServers('directly', { DATABASE_URL: postgres.url });
  await tryServers('session mode', { DATABASE_URL: session.url });
  // Its connections stay open for a while; they would be counted below.
  await workshop.end(session.child);
  const transaction = await workshop.startPgbouncer('transaction', 'transaction', postgres);
  await tryServers('transaction mode with TASKLANE_DIRECT_URL', {
    DATABASE_URL: transaction.url,
    TASKLANE_DIRECT_URL: transaction.sessionUrl,
  });
  await compareCalls(postgres.url, transaction.url, report);
  await showTransactionModeAlone();

  async function tryServers(how: string, env: Record<string, string>): Promise<void> {
    report.say(`${how}:`);
    const servers = [await workshop.startServer(env), await workshop.startServer(env)];
    const urls = servers.map(({ url }) => url);
    const queue = how.replaceAll(' ', '-').slice(0, 30);
    await register(urls[0] as string, queue);
    await checkWakeUps(servers, queue, report);
    const load = startLoad({ urls, queue, clients: 4, workers: 4 });
    await sleep(LOAD_MS);
    report.figure('connections at Postgres', await countConnections(postgres));
    await load.settle(postgres.url, report);
    const logs = await Promise.all(servers.map(({ logFile }) => readFile(logFile, 'utf8')));
    const first = logs.flatMap((log) => log.split('\n')).find((line) => line.startsWith('{'));
    report.check(
      'no request failed, and the servers had nothing to complain about',
      !load.failures.size && !first,
      first,
    );
    for (const { child } of servers) await workshop.end(child);
  }

  /** What happens without the setting; it depends on the pooler's version and on chance, so it is shown and not judged. */
  async function showTransactionModeAlone(): Promise<void> {
    report.say('transaction mode alone, which is not supported:');
    const env = { DATABASE_URL: transaction.url };
    for (const which of ['the first server', 'the second server']) {
      try {
        const server = await workshop.startServer(env, 8000);
        await register(server.url, 'alone').catch((error) => report.say(`seen: ${(error as Error).message}`));
        const load = startLoad({ urls: [server.url], queue: 'alone', clients: 2, workers: 2 });
        await sleep(1500);
        load.stop();
        const failed = [...load.failures].map(([why, count]) => `${count} × ${why}`).join(', ');
        report.say(`seen: ${which} starts; failed requests: ${failed || 'none'}`);
      } catch (error) {
        report.say(`seen: ${which} does not start: ${(error as Error).message.trim().replaceAll('\n', ' ')}`);
      }
    }
    const locks = `select count(*)::int as held from pg_locks where locktype = 'advisory' and granted`;
    const [row] = await query<{ held: number }>(postgres.url, locks);
    report.say(
      `seen: ${row?.held} lock of migrations left behind in a connection of the pooler, held for as long as that lives`,
    );
  }
}

/** A take that waits at one server gets what is put at the other, and a client that waits at one is answered through the other, at once. */
async function checkWakeUps(servers: readonly TasklaneServer[], queue: string, report: Report): Promise<void> {
  const [here, there] = servers.map(({ url }) => url) as [string, string];
  // Each server knows of the other only after its sign of life; until then it tells nobody anything.
  await sleep(300);
  const times: number[] = [];
  for (let n = 0; n < 5; n++) {
    const waiting = request(here, '/v1/queue/take', { queues: [`${queue}:1`], size: 1, wait: 5 });
    await sleep(150 + n * 60);
    const began = performance.now();
    const put = {
      queue,
      level: 1,
      endpoint: ENDPOINT,
      response_mode: 'blocking',
      timeout: 10,
      data: { marker: `w${n}` },
    };
    const answering = request(there, '/v1/queue/put', put);
    const tasks = Object.values((await waiting)?.json() ?? {}).flat() as { task_id: string; attempt: number }[];
    const [task] = tasks;
    if (task) {
      const answer = { status_code: 200, body: { echo: `w${n}` }, attempt: task.attempt };
      await request(here, `/v1/queue/${task.task_id}/complete`, answer);
    }
    const answered = await answering;
    times.push(answered?.status === 200 ? performance.now() - began : Number.POSITIVE_INFINITY);
  }
  const middle = times.sort((a, b) => a - b)[2] as number;
  report.check(
    'a put at one server wakes a take at the other, and its client is told',
    middle < 300,
    `put, taken, answered, told: ${Math.round(middle)} ms`,
  );
}

/** What a call costs that is prepared once in its connection, and one through the pooler that is not. */
async function compareCalls(direct: string, pooled: string, report: Report): Promise<void> {
  const text = 'select * from tasklane.beat_instance($1::text, $2::text)';
  for (const [how, url, name] of [
    ['directly, prepared', direct, { name: 'beat' }],
    ['through the pooler, not prepared', pooled, {}],
  ] as const) {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    const times: number[] = [];
    for (let n = 0; n < CALLS; n++) {
      const began = performance.now();
      await client.query({ text, values: ['compared', null], ...name });
      times.push(performance.now() - began);
    }
    await client.end();
    const middle = times.sort((a, b) => a - b)[CALLS / 2] as number;
    report.figure(`one small call ${how}`, `${middle.toFixed(2)} ms`);
  }
}

async function countConnections({ url }: Cluster): Promise<number> {
  const [row] = await query<{ count: number }>(
    url,
    `select count(*)::int as count from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()`,
  );
  return row?.count ?? 0;
}
