import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { open, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { spawnOptions } from './embedded-account.ts';
import type { ClusterPlace } from './embedded-cluster.ts';

const LOG_LIMIT_BYTES = 10 * 1024 * 1024;

/** Settings for a queue on one machine: durable, and few long checkpoints. */
const SETTINGS = {
  listen_addresses: '127.0.0.1',
  // A socket's path may have 107 bytes at most, which a data directory's path easily exceeds.
  unix_socket_directories: '',
  max_connections: '100',
  shared_buffers: '256MB',
  max_wal_size: '4GB',
  checkpoint_timeout: '15min',
  jit: 'off',
  idle_in_transaction_session_timeout: '10min',
  timezone: 'UTC',
  log_timezone: 'UTC',
  logging_collector: 'off',
  log_line_prefix: '%m [%p] ',
};

export type Postmaster = {
  readonly process: ChildProcess;
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
};

/** Postgres ended before it was ready; `log` holds what it wrote in this attempt. */
export class PostmasterStartError extends Error {
  readonly log: string;
  constructor(how: string, log: string) {
    super(`embedded Postgres did not start (${how})${log ? `; its log ends with:\n${log}` : ''}`);
    this.log = log;
  }
}

/**
 * Starts Postgres as our child in a process group of its own (so that a Ctrl-C for the server does not also stop the database under it) and resolves
 * when it takes connections, however long its recovery takes; `onSpawn` gets it before that.
 */
export async function launchPostmaster(options: {
  place: ClusterPlace;
  postgres: string;
  port: number;
  logFile: string;
  durable: boolean;
  onSpawn: (postmaster: Postmaster) => void;
}): Promise<Postmaster> {
  const { place, postgres, port, logFile, durable, onSpawn } = options;
  await rotate(logFile);
  const settings = Object.entries({ ...SETTINGS, port: String(port), fsync: durable ? 'on' : 'off' });
  const log = openSync(logFile, 'a', 0o600);
  const logStart = (await stat(logFile)).size;
  const child = spawn(
    postgres,
    ['-D', place.path, ...settings.flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    {
      ...spawnOptions(place.account),
      detached: true,
      stdio: ['ignore', log, log],
    },
  );
  closeSync(log);
  // Whatever ends this process in a hurry ends Postgres with it: at once, and it recovers at its next start.
  const endWithUs = () => child.kill('SIGQUIT');
  process.once('exit', endWithUs);
  let ended: string | undefined;
  const exited = new Promise<Awaited<Postmaster['exited']>>((resolve) => {
    child.once('error', (error) => {
      ended = error.message;
      resolve({ code: null, signal: null });
    });
    child.once('exit', (code, signal) => {
      ended = signal ?? `exit code ${code}`;
      resolve({ code, signal });
    });
  });
  void exited.then(() => process.off('exit', endWithUs));
  const postmaster = { process: child, exited };
  onSpawn(postmaster);
  while (ended === undefined) {
    const status = await readPidFile(place.path);
    if (status?.pid === child.pid && status?.ready) return postmaster;
    await Promise.race([exited, sleep(20)]);
  }
  throw new PostmasterStartError(ended, await lastLines(logFile, logStart));
}

/** Asks Postgres to end its sessions and stop, more harshly the longer it takes, and waits until it is gone. */
export async function stopPostmaster(postmaster: Postmaster): Promise<void> {
  const { process: child, exited } = postmaster;
  const harsher = [setTimeout(() => child.kill('SIGQUIT'), 20_000), setTimeout(() => child.kill('SIGKILL'), 25_000)];
  child.kill('SIGINT');
  await exited;
  for (const timer of harsher) clearTimeout(timer);
}

/**
 * Clears what an earlier server left: stops a Postgres that outlived it, and removes a postmaster.pid whose pid now belongs to some other program
 * (Postgres would take that for a running one). Call it only under the lock of the data directory.
 */
export async function clearOrphan(cluster: string): Promise<'stopped' | 'nothing'> {
  const status = await readPidFile(cluster);
  if (!status || !isAlive(status.pid)) return 'nothing';
  if (!(await isPostmasterOf(status.pid, cluster))) {
    await rm(join(cluster, 'postmaster.pid'), { force: true });
    return 'nothing';
  }
  for (const [signal, patience] of [
    ['SIGINT', 15_000],
    ['SIGQUIT', 5_000],
    ['SIGKILL', 5_000],
  ] as const) {
    process.kill(status.pid, signal);
    for (const until = Date.now() + patience; Date.now() < until; await sleep(20)) {
      // Not isAlive(): where nothing reaps orphans it stays as a zombie.
      if (!(await isPostmasterOf(status.pid, cluster))) return 'stopped';
    }
  }
  throw new Error(`a Postgres of an earlier server (pid ${status.pid}) on ${cluster} cannot be stopped`);
}

async function readPidFile(cluster: string): Promise<{ pid: number; ready: boolean } | undefined> {
  const lines = (await readFile(join(cluster, 'postmaster.pid'), 'utf8').catch(() => '')).split('\n');
  const pid = Number(lines[0]);
  return pid > 0 ? { pid, ready: lines[7]?.trim() === 'ready' } : undefined;
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

async function isPostmasterOf(pid: number, cluster: string): Promise<boolean> {
  const command =
    process.platform === 'linux'
      ? (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0').join(' ')
      : await promisify(execFile)('ps', ['-o', 'args=', '-p', String(pid)]).then(
          ({ stdout }) => stdout,
          () => '',
        );
  return command.includes('postgres') && command.includes(`-D ${cluster} `);
}

async function rotate(logFile: string): Promise<void> {
  const size = await stat(logFile).then(
    (file) => file.size,
    () => 0,
  );
  if (size > LOG_LIMIT_BYTES) await rename(logFile, `${logFile}.1`);
}

async function lastLines(logFile: string, from: number): Promise<string> {
  const handle = await open(logFile);
  try {
    const start = Math.max(from, (await handle.stat()).size - 16_384);
    const { buffer, bytesRead } = await handle.read({ buffer: Buffer.alloc(16_384), position: start });
    return buffer.toString('utf8', 0, bytesRead).trimEnd().split('\n').slice(-20).join('\n');
  } finally {
    await handle.close();
  }
}
