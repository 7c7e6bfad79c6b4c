import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { chmod, chown, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { runAs, spawnOptions, unprivilegedAccount } from '../../server/db/embedded-account.ts';
import { findFreePort } from '../../server/db/embedded-cluster.ts';
import { SERVER } from '../server.ts';
import { findPgbouncer, findPostgres } from './programs.ts';

export const ADMIN_KEY = randomBytes(24).toString('hex');
const PASSWORD = randomBytes(24).toString('hex');
const START_MS = 30_000;

const SETTINGS = {
  listen_addresses: '127.0.0.1',
  // A socket's path may have 107 bytes at most, which a temporary folder's path can exceed.
  unix_socket_directories: '',
  max_connections: '100',
  shared_buffers: '128MB',
  wal_level: 'replica',
  jit: 'off',
  timezone: 'UTC',
};

export type Cluster = {
  readonly name: string;
  readonly port: number;
  /** Its superuser's URL of the database `tasklane`. */
  readonly url: string;
  readonly child: ChildProcess;
  readonly folder: string;
  /** Kills the postmaster and all of its processes with -9, as a machine's end would. */
  kill(): Promise<void>;
  promote(): Promise<void>;
};

const DATABASES = ['tasklane', 'tasklane_session'];

export type Pooler = {
  readonly url: string;
  /** The same database, in session mode whatever the mode of `url` is. */
  readonly sessionUrl: string;
  readonly version: string;
  readonly child: ChildProcess;
  /** Sends connections to another Postgres, and closes those that are open, as they may hang where they are. */
  pointTo(port: number): Promise<void>;
};

export type TasklaneServer = { readonly url: string; readonly child: ChildProcess; readonly logFile: string };

export type Workshop = Awaited<ReturnType<typeof openWorkshop>>;

/** A temporary folder in which Postgres, PgBouncer and servers can be started; `close` ends all that was started, by its pid, and removes it. */
export async function openWorkshop() {
  const account = await unprivilegedAccount();
  const bin = findPostgres() as string;
  const root = await mkdtemp(join(tmpdir(), 'tasklane-grow-'));
  // As root, Postgres runs as a user who must be able to enter the folder.
  await chmod(root, 0o711);
  const own = async (path: string) => {
    if (account) await chown(path, account.uid, account.gid);
  };
  const children = new Set<ChildProcess>();
  const killChildren = () => {
    for (const child of children) killTree(child);
  };
  process.once('exit', killChildren);
  let closed = false;

  const begin = (program: string, args: readonly string[], logFile: string, options: object) => {
    if (closed) throw new Error('stopped');
    const log = openSync(logFile, 'a', 0o600);
    // A process group of its own: a Ctrl-C is for us, and we end what we began.
    const child = spawn(program, args, { detached: true, stdio: ['ignore', log, log], ...options });
    closeSync(log);
    children.add(child);
    child.once('exit', () => children.delete(child));
    return child;
  };

  const clusterUrl = (port: number) => `postgres://tasklane:${PASSWORD}@127.0.0.1:${port}/tasklane`;

  const launch = async (name: string, settings: Record<string, string>, port: number): Promise<Cluster> => {
    const folder = join(root, name);
    const logFile = join(root, `${name}.log`);
    const all = Object.entries({ ...SETTINGS, port: String(port), ...settings });
    const args = ['-D', folder, ...all.flatMap(([key, value]) => ['-c', `${key}=${value}`])];
    const child = begin(join(bin, 'postgres'), args, logFile, spawnOptions(account));
    const at = new URL(clusterUrl(port));
    at.pathname = '/postgres';
    await until(`Postgres ${name}`, logFile, child, () => query(at.href, 'select 1').then(() => true));
    return {
      name,
      port,
      url: clusterUrl(port),
      child,
      folder,
      async kill() {
        const ended = once(child, 'exit');
        killTree(child);
        await ended;
      },
      async promote() {
        await runAs(account, join(bin, 'pg_ctl'), ['promote', '-D', folder, '-t', '30']);
      },
    };
  };

  return {
    root,
    major: Number((await runAs(account, join(bin, 'postgres'), ['--version'])).match(/(\d+)/)?.[1]),

    /** A new cluster with an empty database `tasklane`. */
    async startPostgres(name: string, settings: Record<string, string> = {}): Promise<Cluster> {
      const folder = join(root, name);
      const passwordFile = join(root, `${name}.password`);
      await mkdir(folder, { mode: 0o700 });
      await writeFile(passwordFile, `${PASSWORD}\n`, { mode: 0o600 });
      await Promise.all([own(folder), own(passwordFile)]);
      const auth = ['--username=tasklane', `--pwfile=${passwordFile}`, '--auth=scram-sha-256'];
      await runAs(account, join(bin, 'initdb'), [`--pgdata=${folder}`, ...auth, '--encoding=UTF8', '--locale=C']);
      const cluster = await launch(name, settings, await findFreePort());
      const at = new URL(cluster.url);
      at.pathname = '/postgres';
      await query(at.href, 'create database tasklane');
      return cluster;
    },

    /** A copy of `primary` that follows it, under its own name (`application_name`). */
    async startStandby(name: string, primary: Cluster, settings: Record<string, string> = {}): Promise<Cluster> {
      const folder = join(root, name);
      await mkdir(folder, { mode: 0o700 });
      await own(folder);
      const from = `host=127.0.0.1 port=${primary.port} user=tasklane password=${PASSWORD} application_name=${name}`;
      const copy = ['-D', folder, '-d', from, '--checkpoint=fast', '--write-recovery-conf', '--wal-method=stream'];
      await runAs(account, join(bin, 'pg_basebackup'), copy);
      return launch(name, settings, await findFreePort());
    },

    /** Starts a cluster that was killed again, at its port. */
    again: (cluster: Cluster, settings: Record<string, string> = {}) => launch(cluster.name, settings, cluster.port),

    async startPgbouncer(name: string, mode: 'session' | 'transaction', to: Cluster): Promise<Pooler> {
      const port = await findFreePort();
      const file = join(root, `${name}.ini`);
      const users = join(root, `${name}.users`);
      const write = async (target: number) => {
        const text = `[databases]
tasklane = host=127.0.0.1 port=${target} dbname=tasklane
tasklane_session = host=127.0.0.1 port=${target} dbname=tasklane pool_mode=session

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = ${users}
admin_users = tasklane
pool_mode = ${mode}
default_pool_size = 40
server_login_retry = 1
ignore_startup_parameters = extra_float_digits, statement_timeout, idle_in_transaction_session_timeout
`;
        await writeFile(file, text, { mode: 0o600 });
        await own(file);
      };
      await writeFile(users, `"tasklane" "${PASSWORD}"\n`, { mode: 0o600 });
      await own(users);
      await write(to.port);
      const program = findPgbouncer() as string;
      const logFile = join(root, `${name}.log`);
      const child = begin(program, [file], logFile, spawnOptions(account));
      const url = clusterUrl(port);
      const sessionUrl = url.replace(/tasklane$/, 'tasklane_session');
      await until('PgBouncer', logFile, child, () => query(url, 'select 1').then(() => true));
      return {
        url,
        sessionUrl,
        child,
        version: (await runAs(account, program, ['--version'])).split('\n')[0]?.replace(/^PgBouncer /, '') ?? '',
        async pointTo(target) {
          await write(target);
          const admin = new URL(url);
          admin.pathname = '/pgbouncer';
          for (const command of ['reload', ...DATABASES.flatMap((name) => [`kill ${name}`, `resume ${name}`])])
            await query(admin.href, command);
        },
      };
    },

    /** Resolves when it listens; rejects with the end of its log when it ends, or takes longer than `patience`. */
    async startServer(env: Record<string, string>, patience = START_MS): Promise<TasklaneServer> {
      const port = await findFreePort();
      const logFile = join(root, `server-${port}.log`);
      const child = begin(process.execPath, SERVER, logFile, {
        cwd: join(import.meta.dirname, '..', '..'),
        env: {
          PATH: process.env.PATH,
          PORT: String(port),
          TASKLANE_ADMIN_KEY: ADMIN_KEY,
          TASKLANE_LOG_LEVEL: 'warn',
          ...env,
        },
      });
      const listening = async () => (await readFile(logFile, 'utf8')).includes('listening on http');
      await until('the server', logFile, child, listening, patience);
      return { url: `http://127.0.0.1:${port}`, child, logFile };
    },

    /** Ends a process that was started here. */
    async end(child: ChildProcess): Promise<void> {
      if (!children.has(child)) return;
      const ended = once(child, 'exit');
      killTree(child);
      await ended;
    },

    async close(): Promise<void> {
      closed = true;
      const ended = [...children].map((child) => once(child, 'exit'));
      killChildren();
      await Promise.all(ended);
      process.off('exit', killChildren);
      await rm(root, { recursive: true, force: true });
    },
  };
}

/** Runs one query on a connection of its own. */
export async function query<Row extends pg.QueryResultRow>(
  url: string,
  text: string,
  values: readonly unknown[] = [],
): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5000 });
  client.on('error', () => undefined);
  try {
    await client.connect();
    return (await client.query<Row>(text, values.length > 0 ? [...values] : undefined)).rows;
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** Kills a process and what it began with -9. (Postgres' processes leave its process group, so a signal to that would not reach them.) */
function killTree(child: ChildProcess): void {
  const { pid } = child;
  if (pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  let pids: number[] = [];
  try {
    const table = execFileSync('ps', ['-e', '-o', 'pid=,ppid='], { encoding: 'utf8' });
    pids = table
      .split('\n')
      .map((line) => line.trim().split(/\s+/).map(Number))
      .flatMap(([one, parent]) => (parent === pid && one ? [one] : []));
  } catch {
    // Without ps, Postgres' processes end by themselves once their postmaster is gone.
  }
  for (const one of [pid, ...pids]) {
    try {
      process.kill(one, 'SIGKILL');
    } catch {
      // gone since
    }
  }
}

async function until(
  what: string,
  logFile: string,
  child: ChildProcess,
  ready: () => Promise<boolean>,
  patience = START_MS,
): Promise<void> {
  for (const late = Date.now() + patience; ; await sleep(50)) {
    if (await ready().catch(() => false)) return;
    const over = child.exitCode !== null || child.signalCode !== null;
    if (!over && Date.now() < late) continue;
    const log = (await readFile(logFile, 'utf8').catch(() => '')).trimEnd().split('\n').slice(-5).join('\n');
    throw new Error(`${what} ${over ? 'ended' : `was not ready in ${patience / 1000} s`}; its log ends with\n${log}`);
  }
}
