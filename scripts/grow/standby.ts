import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { ENDPOINT, register, startLoad } from './load.ts';
import type { Report } from './report.ts';
import { query, type Workshop } from './workshop.ts';

const BEFORE_MS = 4000;
const AFTER_MS = 4000;
/** How long the old primary is waited for; it must not acknowledge. */
const SILENT_MS = 3000;

/** Two servers on a primary with a synchronous standby; the primary is killed under load, the standby promoted, and the pooler pointed to it. */
export async function tryStandby(workshop: Workshop, report: Report): Promise<void> {
  const primary = await workshop.startPostgres('primary');
  const standby = await workshop.startStandby('standby', primary);
  // After the copy was made: the standby must not wait for itself once it is promoted.
  await query(primary.url, `alter system set synchronous_standby_names = 'standby'`);
  await query(primary.url, 'select pg_reload_conf()');
  const pooler = await workshop.startPgbouncer('pooler', 'session', primary);
  const env = { DATABASE_URL: pooler.url };
  const servers = [await workshop.startServer(env), await workshop.startServer(env)];
  const urls = servers.map(({ url }) => url);
  await register(urls[0] as string, 'failover', { max_attempts: 100 });
  const [state] = await query<{ sync_state: string }>(primary.url, 'select sync_state from pg_stat_replication');
  report.check('the standby is synchronous before the load begins', state?.sync_state === 'sync', state?.sync_state);

  const load = startLoad({ urls, queue: 'failover', clients: 2, workers: 2 });
  await sleep(BEFORE_MS);
  const before = { put: load.put, answered: load.answered };
  await primary.kill();
  const killed = performance.now();
  report.say(`primary killed with -9 after ${before.put} acknowledged puts and ${before.answered} answers`);
  await standby.promote();
  const promoted = performance.now();
  await pooler.pointTo(standby.port);
  report.figure('promoted', `${Math.round(promoted - killed)} ms after the end of the primary`);
  await sleep(AFTER_MS);
  report.figure('longest time without an acknowledged put', `${Math.round(load.longestGap)} ms`);
  report.figure('acknowledged puts after the promotion', load.put - before.put);
  report.check('puts are acknowledged again', load.put > before.put);
  await load.settle(standby.url, report);
  for (const [why, count] of load.failures) report.say(`meanwhile ${count} × ${why}`);
  report.check(
    'both servers went on without a restart',
    servers.every(({ child }) => child.exitCode === null && child.signalCode === null),
  );

  await workshop.again(primary);
  await checkOldPrimary(primary.url, report);
}

/** The old primary, back by mistake, takes connections; but without its standby it acknowledges nothing. */
async function checkOldPrimary(url: string, report: Report): Promise<void> {
  // The server's own statement_timeout is 60 s; it ends before the commit begins to wait, however short it is.
  const client = new pg.Client({ connectionString: url, statement_timeout: 1000 });
  client.on('error', () => undefined);
  await client.connect();
  const put = client.query(`select tasklane.put('failover', '{"marker": "lost"}', endpoint => '${ENDPOINT}')`).then(
    () => 'acknowledged',
    (error: Error) => error.message,
  );
  const outcome = await Promise.race([put, sleep(SILENT_MS, 'no answer')]);
  report.check('the old primary, started again, acknowledges no put', outcome === 'no answer', outcome);
  const [row] = await query<{ pid: number }>(
    url,
    `select pid from pg_stat_activity where wait_event = 'SyncRep' and query like 'select tasklane.put%'`,
  );
  if (row) {
    await query(url, 'select pg_cancel_backend($1)', [row.pid]);
    const after = await Promise.race([put, sleep(SILENT_MS, 'still no answer')]);
    report.say(`seen: when somebody cancels it there with pg_cancel_backend, it is ${after}`);
  }
  await client.end().catch(() => undefined);
}
