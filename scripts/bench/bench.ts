import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runMigrations } from 'graphile-worker';
import pg from 'pg';
import { pino } from 'pino';
import { startEmbeddedPostgres } from '../../server/db/embedded.ts';
import { migrate } from '../../server/db/migrate.ts';
import { SERVER } from '../server.ts';
import { client, KEY } from './http.ts';
import { type Running, start } from './processes.ts';

export const ENDPOINT = '/v1/chat/completions';
/** 400 bytes, as a short conversation has them. */
export const DATA = {
  model: 'm',
  messages: [{ role: 'user', content: 'Say in one sentence what a queue is for. '.repeat(8) }],
};
export const ANSWER = {
  status_code: 200,
  body: {
    choices: [{ message: { role: 'assistant', content: 'So that nothing is lost.' } }],
    usage: { total_tokens: 9 },
  },
};
/** The body of a put into a queue. */
export const putOf = (queue: string, level = 1): string =>
  JSON.stringify({ queue, endpoint: ENDPOINT, level, data: DATA });

/** The database that others are copies of. */
const MIGRATED = 'migrated';

/** What a measurement gets: a Postgres of its own, and whatever it starts there; all of it ends with the bench. */
export type Bench = {
  quick: boolean;
  /** How often things are asked in turns; medians are over these. */
  rounds: number;
  /** The cluster's files, for what looks at its processes. */
  dataDir: string;
  /** A new database with Tasklane's schema; `bare`: with nothing in it. Gives its URL. */
  database(name: string, options?: { bare: boolean }): Promise<string>;
  /** A server on a database, with the queue `bench` registered. */
  server(database: string, env?: Record<string, string>): Promise<Running>;
  /** A server that is alone on a database of its own. In a quick run all measurements have the same one. */
  alone(name: string): Promise<Running>;
  /** Another program of ours or a peer's. */
  program(args: readonly string[], env?: Record<string, string>): Promise<Running>;
  /** What is to be done when the bench ends, in the reverse order. */
  atEnd(stop: () => Promise<unknown>): void;
};

export async function startBench(options: {
  quick: boolean;
  rounds: number;
}): Promise<Bench & { stop(): Promise<void> }> {
  const dataDir = await mkdtemp(join(tmpdir(), 'tasklane-bench-'));
  await chmod(dataDir, 0o711); // or, run by root, the cluster would live outside of it and stay behind
  const stops: (() => Promise<unknown>)[] = [() => rm(dataDir, { recursive: true, force: true })];
  let stopping: Promise<void> | undefined;
  let databases = 0;
  // A signal ends the measurement as well, which asks again.
  const stop = () => {
    stopping ??= (async () => {
      for (const one of stops.reverse()) await one();
    })();
    return stopping;
  };
  try {
    const postgres = await startEmbeddedPostgres({ dataDir, owner: 'bench', log: pino({ level: 'warn' }) });
    stops.push(postgres.stop);
    const program: Bench['program'] = async (args, env = {}) => {
      const running = await start(args, env);
      stops.push(running.stop);
      return running;
    };
    const create = async (name: string, template = 'template1') => {
      const admin = new pg.Client({ connectionString: postgres.url });
      await admin.connect();
      await admin.query(`create database ${name} template ${template}`);
      await admin.end();
      return Object.assign(new URL(postgres.url), { pathname: `/${name}` }).href;
    };
    const connectionString = await create(MIGRATED);
    await migrate(connectionString);
    await runMigrations({ connectionString });
    const database: Bench['database'] = (what, { bare } = { bare: false }) =>
      create(`${what}_${++databases}`, bare ? undefined : MIGRATED);
    const server: Bench['server'] = async (database, env = {}) => {
      const running = await program(SERVER, {
        PORT: '0',
        DATABASE_URL: database,
        TASKLANE_ADMIN_KEY: KEY,
        TASKLANE_LOG_LEVEL: 'warn',
        ...env,
      });
      await register(running.url, 'bench');
      return running;
    };
    let shared: Promise<Running> | undefined;
    return {
      ...options,
      dataDir,
      program,
      atEnd: (stop) => stops.push(stop),
      database,
      server,
      async alone(name) {
        if (!options.quick) return server(await database(name));
        shared ??= database('shared').then((url) => server(url));
        return { ...(await shared), stop: async () => undefined };
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

export async function register(url: string, queue: string): Promise<void> {
  const http = client(url, 1);
  await http.post('/v1/queue/register', JSON.stringify({ queue, endpoint: ENDPOINT }));
  http.close();
}

/** Puts `count` tasks to wait in a lane in one statement, as takes find them, and lets Postgres settle. */
export async function fill(database: string, count: number, queue = 'bench', level = 1): Promise<void> {
  const db = new pg.Client({ connectionString: database });
  await db.connect();
  await db.query('select tasklane.make_lane(tasklane.queue_of($1), $2)', [queue, level]);
  await db.query(
    `with made as materialized (
       select tasklane.first_id_of(now()) + nextval('tasklane.task_number') as id, l.lane_id
       from generate_series(1, $1), tasklane.lane l join tasklane.queue q using (queue_id) where q.queue = $3 and l.level = $4
     ), task as (
       insert into tasklane.task (id, created_at, expires_at, lane_id, tenant_id, mode, rank, data)
       select id, now(), now() + interval '1 day', lane_id, 1, 'callback', 95, $2::json from made
     )
     insert into tasklane.ready (id, expires_at, lane_id, attempt, rank)
     select id, now() + interval '1 day', lane_id, 0, 95 from made`,
    [count, JSON.stringify(DATA), queue, level],
  );
  await db.query('vacuum analyze tasklane.ready');
  await db.end();
}
