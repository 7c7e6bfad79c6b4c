import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { ENDPOINT, register, request, startLoad } from './load.ts';
import type { Report } from './report.ts';
import { ADMIN_KEY, type Cluster, query, type Workshop } from './workshop.ts';

const READER = new URL('reader.sql', import.meta.url);
const LOAD_MS = 3000;
const PROBES = 40;
const DEAD = 10_000;
/** How long replay waits for a query on the replica before it ends it; Postgres' own default is 30 s. */
const DELAY_MS = 1000;

const VIEWS = [
  ...['task_status', 'queue_stats', 'batch_progress', 'dead_task', 'worker_status', 'tenant_stats'],
  'schedule_status',
];

/** Views, and functions that only read, on a hot standby; how old they are; and what a long query there does to takes on the primary. */
export async function tryReplica(workshop: Workshop, report: Report): Promise<void> {
  const primary = await workshop.startPostgres('primary', { autovacuum: 'off' });
  const replica = await workshop.startStandby('replica', primary, {
    max_standby_streaming_delay: `${DELAY_MS}ms`,
    hot_standby_feedback: 'off',
    wal_receiver_status_interval: '1s',
  });
  const server = await workshop.startServer({ DATABASE_URL: primary.url });
  await register(server.url, 'lists');
  const batchId = await putBatch(server.url);
  const load = startLoad({ urls: [server.url], queue: 'lists', clients: 2, workers: 2 });
  const lags = measureLag(primary, replica);
  await sleep(LOAD_MS);
  const sorted = (await lags).sort((a, b) => a - b);
  report.figure(
    'a commit shows on the replica after',
    `${sorted[PROBES / 2]?.toFixed(0)} ms, at most ${sorted.at(-1)?.toFixed(0)} ms`,
  );
  await load.settle(primary.url, report);
  await workshop.end(server.child);

  // Something to be taken, for the calls that must be refused.
  await query(primary.url, `select tasklane.put('lists', '{"marker": "waits"}', level => 3)`);
  await query(primary.url, await readFile(READER, 'utf8'));
  await query(primary.url, `alter role grafana password '${ADMIN_KEY}'`);
  await caughtUp(primary, replica);
  const reader = Object.assign(new URL(replica.url), { username: 'grafana', password: ADMIN_KEY }).href;
  await checkReads(replica, reader, batchId, report);
  await checkWrites(reader, replica.url, report);

  await checkLongQuery(primary, replica, 'off', report);
  await query(replica.url, `alter system set hot_standby_feedback = 'on'`);
  await checkLongQuery(primary, await restarted(workshop, replica), 'on', report);
}

async function restarted(workshop: Workshop, replica: Cluster): Promise<Cluster> {
  await workshop.end(replica.child);
  return workshop.again(replica, { max_standby_streaming_delay: `${DELAY_MS}ms`, wal_receiver_status_interval: '1s' });
}

async function putBatch(url: string): Promise<string> {
  const lines = Array.from({ length: 20 }, (_, n) =>
    JSON.stringify({ custom_id: `${n}`, method: 'POST', url: ENDPOINT, body: { model: 'lists', marker: `b${n}` } }),
  );
  const form = new FormData();
  form.append('purpose', 'batch');
  form.append('file', new Blob([lines.join('\n')]), 'input.jsonl');
  const headers = { Authorization: `Bearer ${ADMIN_KEY}` };
  const file = await fetch(`${url}/v1/files`, { method: 'POST', headers, body: form });
  const { id } = (await file.json()) as { id: string };
  const batch = { input_file_id: id, endpoint: ENDPOINT, completion_window: '24h' };
  const made = await request(url, '/v1/batches', batch);
  if (made?.status !== 200) throw new Error(`the batch was not made: ${made?.text}`);
  return made.json().id as string;
}

/** How long after a commit on the primary the replica shows it, in ms, while there is load. */
async function measureLag(primary: Cluster, replica: Cluster): Promise<number[]> {
  const [there, here] = await Promise.all([connect(primary.url), connect(replica.url)]);
  const lags: number[] = [];
  try {
    for (let n = 0; n < PROBES; n++) {
      const put = await there.query(`select tasklane.put('lists', '{"marker": "lag"}', level => 1) as id`);
      const began = performance.now();
      for (;;) {
        const seen = await here.query('select from tasklane.task_status where id = tasklane.parse_task_id($1)', [
          put.rows[0].id,
        ]);
        if (seen.rowCount) break;
      }
      lags.push(performance.now() - began);
    }
    await there.query(`select tasklane.clear_lane('lists:1', 1000)`);
  } finally {
    await Promise.all([there.end(), here.end()]);
  }
  return lags;
}

async function checkReads(replica: Cluster, reader: string, batchId: string, report: Report): Promise<void> {
  const calls = [
    ...VIEWS.map((view) => `select count(*)::int as rows from tasklane.${view}`),
    `select count(*)::int as rows from tasklane.explain_batch(tasklane.parse_batch_id('${batchId}'))`,
    `select count(*)::int as rows from tasklane.batch_results(tasklane.parse_batch_id('${batchId}'), 0)`,
    `select count(*)::int as rows from tasklane.attempts_of(0)`,
    `select count(*)::int as rows from tasklane.read_feed(0)`,
  ];
  for (const [who, url, more] of [
    ['grafana', reader, []],
    // It looks at webhooks' endpoints, beside whose addresses their secrets stand.
    ['the owner', replica.url, ['select count(*)::int as rows from tasklane.list_callbacks()']],
  ] as const) {
    const failed: string[] = [];
    const seen: string[] = [];
    for (const call of [...calls, ...more]) {
      const name = /tasklane\.(\w+)/.exec(call)?.[1];
      try {
        seen.push(`${name} ${(await query<{ rows: number }>(url, call))[0]?.rows}`);
      } catch (error) {
        failed.push(`${name}: ${(error as Error).message}`);
      }
    }
    report.say(`rows that ${who} sees on the replica: ${seen.join(', ')}`);
    report.check(`${who} can read all of it there`, failed.length === 0, failed.join('; '));
  }
  for (const secret of ['api_key', 'tenant', 'webhook_endpoint', 'instance']) {
    const outcome = await query(reader, `select * from tasklane.${secret}`).then(
      () => 'was read',
      (error) => (error as Error).message,
    );
    report.check(`grafana can't read ${secret}`, outcome.startsWith('permission denied'), outcome);
  }
}

async function checkWrites(reader: string, owner: string, report: Report): Promise<void> {
  const calls = [
    `select tasklane.put('lists', '{}')`,
    `select * from tasklane.take('lists:3')`,
    `select tasklane.set_queue('lists', '{"paused": true}')`,
    `select * from tasklane.clear_lane('lists:3', 10)`,
  ];
  for (const call of calls) {
    const codes = await Promise.all(
      [reader, owner].map((url) =>
        query(url, call).then(
          () => 'done',
          (error) => error.code,
        ),
      ),
    );
    report.check(`refused on the replica: ${call}`, codes[1] === '25006' && codes[0] !== 'done', codes.join(', '));
  }
}

/** A query on the replica that stays open while tasks are put and taken on the primary, and a vacuum cleans up after them. */
async function checkLongQuery(primary: Cluster, replica: Cluster, feedback: string, report: Report): Promise<void> {
  report.say(`hot_standby_feedback = ${feedback}, and a query on the replica that stays open:`);
  await query(primary.url, 'vacuum tasklane.ready');
  await caughtUp(primary, replica);
  const long = await connect(replica.url);
  let lost: Error | undefined;
  long.on('error', (error) => {
    lost ??= error;
  });
  await long.query('begin isolation level repeatable read');
  await long.query('select count(*) from tasklane.queue_stats');
  // With feedback, the primary knows of the query by the next message of the replica.
  await sleep(2500);
  const taker = await connect(primary.url);
  await taker.query(
    `select count(tasklane.put('lists', '{"marker": "dead"}', level => 2)) from generate_series(1, $1::int)`,
    [DEAD + 100],
  );
  for (let taken = 0; taken < DEAD; taken += 1000)
    await taker.query(`select count(*) from tasklane.take_tasks(array['lists:2'], array[1000], 'fifo', null, null)`);
  await taker.query('vacuum tasklane.ready');
  const head = await taker.query(
    `select rank, min(id)::text as id from tasklane.ready where lane_id = tasklane.lane_of('lists:2') group by rank order by rank limit 1`,
  );
  const { rank, id } = head.rows[0] as { rank: number; id: string };
  const held = await costOfTake(taker, null, null);
  const hinted = await costOfTake(taker, rank, id);
  await sleep(DELAY_MS + 1000);
  await long.query('select count(*) from tasklane.queue_stats').catch((error: Error) => {
    lost ??= error;
  });
  await long.end().catch(() => undefined);
  report.figure(`a take of 1 after ${DEAD} others, from the bottom, reads`, `${held} pages`);
  report.figure('the same from the head that a server remembers', `${hinted} pages`);
  if (feedback === 'off') {
    report.check('the query is ended by the replay', lost !== undefined, lost?.message);
    report.check('takes do not pay for it', held < 100);
  } else {
    report.check('the query goes on', lost === undefined, lost?.message);
    report.check('takes from the bottom pay for it, those of a server do not', held > 3 * hinted && hinted < 100);
  }
  await taker.query(`select tasklane.clear_lane('lists:2', 1000)`);
  await taker.query('delete from tasklane.running');
  await taker.end();
}

/** Pages that a take looks at. */
async function costOfTake(client: pg.Client, rank: number | null, id: string | null): Promise<number> {
  await client.query('begin');
  const { rows } = await client.query(
    `explain (analyze, buffers, format json) select * from tasklane.take_tasks(
       array['lists:2'], array[1], 'fifo', ${rank === null ? 'null' : `array[${rank}]::smallint[]`}, ${id === null ? 'null' : `array[${id}]`})`,
  );
  await client.query('rollback');
  const plan = rows[0]['QUERY PLAN'][0].Plan as Record<string, number>;
  return (plan['Shared Hit Blocks'] ?? 0) + (plan['Shared Read Blocks'] ?? 0);
}

async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

/** Waits until the replica has all that the primary has now. */
async function caughtUp(primary: Cluster, replica: Cluster): Promise<void> {
  const [row] = await query<{ at: string }>(primary.url, 'select pg_current_wal_flush_lsn()::text as at');
  for (const late = Date.now() + 10_000; Date.now() < late; await sleep(20)) {
    const [seen] = await query<{ there: boolean }>(
      replica.url,
      'select pg_last_wal_replay_lsn() >= $1::pg_lsn as there',
      [row?.at],
    );
    if (seen?.there) return;
  }
  throw new Error('the replica did not catch up in 10 s');
}
