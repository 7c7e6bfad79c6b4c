import { readdir } from 'node:fs/promises';
import type { Client } from 'pg';
import { span } from '../times.ts';
import { blockedSessions, disk } from './blocked.ts';
import { type Check, ok, problem, warning } from './check.ts';

const OLDEST_POSTGRES = 15;
const CONNECT_MS = 5000;
const NOTIFY_MS = 3000;
/** A look that takes longer waits for something. */
const LOOK_MS = 5000;
const CLOCK_SECONDS = 2;
const LONG_SECONDS = 300;
const DEAD_ROWS = 100_000;
const OLD_XIDS = 1_000_000_000;
const MIGRATIONS = new URL('../../../sql/migrations/', import.meta.url);

/** What Postgres itself says. */
export async function checkDatabase(url: string): Promise<Check[]> {
  const { default: pg } = await import('pg');
  const connect = async () => {
    const client = new pg.Client({
      connectionString: url,
      connectionTimeoutMillis: CONNECT_MS,
      query_timeout: LOOK_MS,
      application_name: 'tasklane doctor',
    });
    // Without a listener a connection that breaks would end the process.
    client.on('error', () => undefined);
    await client.connect();
    // Poolers refuse these when they come with the connection.
    await client.query("select set_config('lock_timeout', '2s', false), set_config('statement_timeout', '4s', false)");
    return client;
  };
  let database: Client;
  try {
    database = await connect();
  } catch (error) {
    return [problem('database', (error as Error).message, 'is the URL right, and does Postgres run?')];
  }
  const looks: (() => Promise<Check | undefined | Check[]>)[] = [
    () => version(database),
    () => blockedSessions(database),
    () => disk(database),
    () => settings(database),
    () => connections(database),
    () => notify(database, connect),
    () => clock(database),
    () => migrations(database),
    () => vacuum(database),
    () => holders(database),
    () => notificationQueue(database),
    () => defaultPartitions(database),
  ];
  const checks: Check[] = [];
  try {
    for (const look of looks) {
      const found = await look().catch((error: Error & { code?: string }) => {
        // With a code it is the look that failed, not the connection.
        if (error.code === undefined) throw error;
        return problem(
          'database',
          error.message,
          ADVICE[error.code] ?? 'it could not be looked at: does this user own it?',
        );
      });
      checks.push(...[found ?? []].flat());
    }
  } catch (error) {
    checks.push(
      problem(
        'database',
        (error as Error).message,
        'it does not answer: does Postgres run, and does the way to it work?',
      ),
    );
  } finally {
    await database.end().catch(() => undefined);
  }
  return checks;
}

const ADVICE: Record<string, string> = {
  '55P03': 'a session holds a table of it: see the blocked sessions',
  '57014': 'it takes too long: see the blocked sessions, and how busy Postgres is',
  '42883': 'start a server of this version: it brings the database up to date',
  '3F000': 'start a server of this version: it brings the database up to date',
};

async function version(database: Client): Promise<Check> {
  const [row] = await rows<{ number: number; text: string }>(
    database,
    `select current_setting('server_version_num')::int as number, current_setting('server_version') as text`,
  );
  return row && row.number >= OLDEST_POSTGRES * 10_000
    ? ok('postgres', row.text)
    : problem('postgres', `${row?.text} is too old`, `Tasklane needs ${OLDEST_POSTGRES} or newer`);
}

const MUST_BE_ON: Record<string, string> = {
  fsync: 'a crash of the machine can destroy the database',
  full_page_writes: 'a crash of the machine can destroy the database',
  synchronous_commit: 'tasks that were acknowledged can be lost in a crash',
  autovacuum: 'takes become ever slower, and at last Postgres stops',
};
const LEAST_BUFFERS = 128 * 1024 * 1024;

async function settings(database: Client): Promise<Check[]> {
  const found = await rows<{ name: string; setting: string }>(
    database,
    `select name, setting from pg_settings where name = any($1)`,
    [Object.keys(MUST_BE_ON)],
  );
  const checks = found.map(({ name, setting }) =>
    setting === 'off'
      ? problem(name, `off: ${MUST_BE_ON[name]}`, `alter system set ${name} = on; select pg_reload_conf();`)
      : ok(name, setting),
  );
  const [buffers] = await rows<{ bytes: string; text: string }>(
    database,
    `select pg_size_bytes(current_setting('shared_buffers')) as bytes, current_setting('shared_buffers') as text`,
  );
  if (buffers && Number(buffers.bytes) < LEAST_BUFFERS) {
    checks.push(
      warning(
        'shared_buffers',
        buffers.text,
        'a quarter of the memory is usual: alter system set shared_buffers, and restart Postgres',
      ),
    );
  } else checks.push(ok('shared_buffers', buffers?.text ?? ''));
  return checks;
}

async function connections(database: Client): Promise<Check> {
  const [row] = await rows<{ used: number; most: number }>(
    database,
    `select (select count(*)::int from pg_stat_activity where backend_type = 'client backend') as used, current_setting('max_connections')::int as most`,
  );
  const { used = 0, most = 1 } = row ?? {};
  return used < most * 0.8
    ? ok('connections', `${used} of ${most}`)
    : warning(
        'connections',
        `${used} of ${most} are in use`,
        'raise max_connections, or lower TASKLANE_MAX_CONNECTIONS',
      );
}

/** From one connection to another, as servers do it. */
async function notify(listener: Client, connect: () => Promise<Client>): Promise<Check> {
  const advice = 'a pooler stands between: it must keep sessions (PgBouncer: pool_mode = session)';
  const heard = new Promise<void>((resolve) => listener.once('notification', () => resolve()));
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), NOTIFY_MS);
  });
  const speaker = await connect();
  try {
    await listener.query('listen tasklane_doctor');
    // A standby that is away is told elsewhere.
    await speaker.query('set synchronous_commit = local');
    const began = performance.now();
    await speaker.query('notify tasklane_doctor');
    if ((await Promise.race([heard, late])) === 'late') return problem('notify', 'LISTEN hears nothing', advice);
    return ok('notify', `heard within ${Math.ceil(performance.now() - began)} ms`);
  } catch (error) {
    return problem('notify', (error as Error).message, advice);
  } finally {
    clearTimeout(timer);
    await speaker.end().catch(() => undefined);
    await listener.query('unlisten tasklane_doctor').catch(() => undefined);
  }
}

async function clock(database: Client): Promise<Check> {
  const began = Date.now();
  const [row] = await rows<{ now: number }>(
    database,
    `select extract(epoch from clock_timestamp())::float8 * 1000 as now`,
  );
  const difference = ((row?.now ?? 0) - (began + Date.now()) / 2) / 1000;
  return Math.abs(difference) < CLOCK_SECONDS
    ? ok('database clock', "this machine's and the database's agree")
    : warning(
        'database clock',
        `${Math.abs(difference).toFixed(1)} s ${difference < 0 ? 'behind' : 'ahead'}`,
        'let both follow NTP',
      );
}

async function migrations(database: Client): Promise<Check> {
  const [exists] = await rows<{ there: boolean }>(
    database,
    `select to_regclass('tasklane.migration') is not null as there`,
  );
  const advice = 'start a server of this version: it brings the database up to date';
  if (!exists?.there) return problem('migrations', 'there is no Tasklane in this database', advice);
  const applied = await rows<{ name: string }>(
    database,
    `select name from tasklane.migration where name like 'migrations/%'`,
  );
  const ours = (await readdir(MIGRATIONS)).filter((file) => file.endsWith('.sql')).map((file) => `migrations/${file}`);
  const names = new Set(applied.map(({ name }) => name));
  const missing = ours.filter((name) => !names.has(name));
  if (missing.length > 0) return problem('migrations', `not applied: ${missing.join(', ')}`, advice);
  const newer = [...names].filter((name) => !ours.includes(name));
  if (newer.length > 0)
    return warning('migrations', `the database has ${newer.join(', ')}`, 'this client is older: upgrade it');
  return ok('migrations', `all ${ours.length} are applied`);
}

/** A take walks over dead rows that can't be cleaned up. */
async function vacuum(database: Client): Promise<Check[]> {
  const dead = await rows<{ name: string; dead: number; live: number }>(
    database,
    `select relname as name, n_dead_tup::float8 as dead, n_live_tup::float8 as live from pg_stat_user_tables
     where schemaname = 'tasklane' and relname in ('ready', 'running', 'deferred', 'lane_tally') order by relname`,
  );
  const swollen = dead.filter((table) => table.dead > DEAD_ROWS && table.dead > table.live);
  const [age] = await rows<{ xids: number }>(
    database,
    `select age(datfrozenxid)::float8 as xids from pg_database where datname = current_database()`,
  );
  return [
    swollen.length === 0
      ? ok('dead rows', dead.map((table) => `${table.name} ${table.dead}`).join(', '))
      : warning(
          'dead rows',
          swollen.map((table) => `${table.name} ${table.dead}`).join(', '),
          'see below who holds an old snapshot; then: vacuum tasklane.ready, tasklane.running, tasklane.deferred;',
        ),
    (age?.xids ?? 0) < OLD_XIDS
      ? ok('transaction ids', `${Math.round((age?.xids ?? 0) / 1e6)} of 2,147 million`)
      : problem(
          'transaction ids',
          `${Math.round((age?.xids ?? 0) / 1e6)} of 2,147 million are used`,
          'vacuum freeze; and find out why autovacuum does not',
        ),
  ];
}

/** Whoever keeps dead rows from being cleaned up. */
async function holders(database: Client): Promise<Check[]> {
  const sessions = await rows<{ pid: number; application: string; state: string; seconds: number }>(
    database,
    `select pid, coalesce(nullif(application_name, ''), usename, '') as application, coalesce(state, '') as state,
            extract(epoch from now() - xact_start)::float8 as seconds
     from pg_stat_activity
     where backend_type = 'client backend' and pid <> pg_backend_pid() and xact_start < now() - make_interval(secs => $1)
     order by xact_start`,
    [LONG_SECONDS],
  );
  const prepared = await rows<{ gid: string; seconds: number }>(
    database,
    `select gid, extract(epoch from now() - prepared)::float8 as seconds from pg_prepared_xacts
     where database = current_database() and prepared < now() - make_interval(secs => $1)`,
    [LONG_SECONDS],
  );
  const slots = await rows<{ name: string; active: boolean; xids: number }>(
    database,
    `select slot_name as name, active, greatest(age(xmin), age(catalog_xmin))::float8 as xids from pg_replication_slots
     where xmin is not null or catalog_xmin is not null`,
  );
  const stale = slots.filter(({ active }) => !active);
  return [
    sessions.length === 0
      ? ok('long transactions', 'none')
      : warning(
          'long transactions',
          sessions.map((one) => `${one.pid} ${one.application} (${one.state}) for ${span(one.seconds)}`).join(', '),
          `end what was forgotten: select pg_terminate_backend(${sessions[0]?.pid});`,
        ),
    prepared.length === 0
      ? ok('prepared transactions', 'none')
      : warning(
          'prepared transactions',
          prepared.map((one) => `${one.gid} for ${span(one.seconds)}`).join(', '),
          `rollback prepared '${prepared[0]?.gid}';`,
        ),
    stale.length === 0
      ? ok('replication slots', slots.length === 0 ? 'none holds rows' : `${slots.length}, all in use`)
      : warning(
          'replication slots',
          `${stale.map(({ name }) => name).join(', ')} hold rows, and nobody reads`,
          `select pg_drop_replication_slot('${stale[0]?.name}');`,
        ),
  ];
}

/** When it is full, every commit that notifies fails. */
async function notificationQueue(database: Client): Promise<Check> {
  const [row] = await rows<{ usage: number }>(database, `select pg_notification_queue_usage() as usage`);
  const usage = row?.usage ?? 0;
  const shown = `${(usage * 100).toFixed(1)} % full`;
  if (usage < 0.1) return ok('notification queue', shown);
  const advice = 'a session that listens has had a transaction open for long: end it';
  return usage < 0.5 ? warning('notification queue', shown, advice) : problem('notification queue', shown, advice);
}

async function defaultPartitions(database: Client): Promise<Check | undefined> {
  const [exists] = await rows<{ there: boolean }>(
    database,
    `select to_regclass('tasklane.task_default') is not null as there`,
  );
  if (!exists?.there) return undefined;
  const [row] = await rows<{ count: number }>(
    database,
    `select count(*)::int as count from (select from tasklane.task_default limit 1000) t`,
  );
  const count = row?.count ?? 0;
  return count === 0
    ? ok('partitions', 'the default one is empty')
    : warning(
        'partitions',
        `${count === 1000 ? '1,000 or more' : count} tasks are in the default one`,
        'a running server moves them within the hour; or: select tasklane.make_partitions();',
      );
}

async function rows<Row>(database: Client, sql: string, values: unknown[] = []): Promise<Row[]> {
  return (await database.query(sql, values)).rows as Row[];
}
