import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, fstatSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { SERVER } from '../server.ts';

/** Something that the person at the terminal can put right: shown as it is, without a stack. */
export class Plain extends Error {}

export type Running = {
  pid: number;
  log: string;
  /** Resolves, with how, when the process has ended. */
  exited: Promise<string>;
  stop(): Promise<void>;
};

/** Starts the server as a process and waits until it listens. Throws `Plain`. */
export async function startServer(options: {
  root: string;
  dataDir: string;
  host: string;
  port: number;
}): Promise<Running & { url: string }> {
  const { root, dataDir, host, port } = options;
  await checkPort(host, port, resolve(root, dataDir));
  const log = openLog(root, dataDir, 'server.log');
  const { DATABASE_URL: _, ...env } = process.env;
  const child = spawn(process.execPath, SERVER, {
    cwd: root,
    env: { ...env, PORT: String(port), HOST: host, TASKLANE_DATA_DIR: dataDir },
    stdio: ['ignore', 'pipe', log.fd],
    detached: true, // Ctrl-C is for the quickstart, which stops its children in order
  });
  closeSync(log.fd);
  const running = supervise(child, log.path);
  for await (const line of createInterface({ input: child.stdout as NodeJS.ReadableStream })) {
    const at = /^tasklane listening on http:\/\/.*:(\d+)$/.exec(line)?.[1];
    if (at === undefined) continue;
    child.stdout?.resume();
    return { ...running, url: `http://${reachable(host)}:${at}` };
  }
  await running.exited;
  const said = readFileSync(resolve(root, log.path)).subarray(log.size).toString();
  const reason = said.split('\n').filter((line) => line !== '' && !line.startsWith('{'));
  throw new Plain(
    `The server did not start:\n  ${reason.join('\n  ') || `see ${log.path}`}${advice(reason.join(' '))}`,
  );
}

/** Starts the demo worker as a process of its own. */
export function startWorker(options: { root: string; dataDir: string; url: string; key: string }): Running {
  const { root, dataDir, url, key } = options;
  const log = openLog(root, dataDir, 'worker.log');
  const child = spawn(process.execPath, ['scripts/quickstart/worker.ts', url], {
    cwd: root,
    env: { ...process.env, WORKER_KEY: key },
    stdio: ['pipe', log.fd, log.fd],
    detached: true,
  });
  closeSync(log.fd);
  return supervise(child, log.path);
}

function supervise(child: ChildProcess, log: string): Running {
  const kill = () => child.kill('SIGTERM');
  process.once('exit', kill);
  const exited = once(child, 'exit').then(([code, signal]) => {
    process.off('exit', kill);
    return signal === null ? `status ${code}` : String(signal);
  });
  return {
    pid: child.pid as number,
    log,
    exited,
    async stop() {
      kill();
      await exited;
    },
  };
}

function openLog(root: string, dataDir: string, name: string): { fd: number; path: string; size: number } {
  const path = join(dataDir, name);
  try {
    // As the server makes it: as root, Postgres runs as another user, who must be able to pass through.
    mkdirSync(resolve(root, dataDir), { recursive: true, mode: 0o711 });
    const fd = openSync(resolve(root, path), 'a', 0o600);
    return { fd, path, size: fstatSync(fd).size };
  } catch (error) {
    throw new Plain(
      `Cannot write ${path}: ${(error as Error).message}\nIf another user made ${dataDir}, choose your own: TASKLANE_DATA_DIR=~/tasklane sh scripts/quickstart.sh`,
    );
  }
}

/** Before Postgres is started for nothing. */
async function checkPort(host: string, port: number, dataDir: string): Promise<void> {
  const probe = createServer();
  try {
    probe.listen(port, host);
    await once(probe, 'listening');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE')
      throw new Plain(`Cannot listen on ${host}:${port}: ${(error as Error).message}`);
    const holder = holderOf(dataDir, `http://${host}:${port}`);
    throw new Plain(
      holder === undefined
        ? `Port ${port} is taken by another program.${advice('EADDRINUSE')}`
        : `Tasklane already runs here: http://${reachable(host)}:${port}, process ${holder}. Stop it first (Ctrl-C in its terminal, or kill ${holder}).`,
    );
  } finally {
    probe.close();
  }
}

function holderOf(dataDir: string, owner: string): number | undefined {
  try {
    const holder = JSON.parse(readFileSync(join(dataDir, 'server.json'), 'utf8')) as { pid: number; owner: string };
    process.kill(holder.pid, 0);
    return holder.owner === owner ? holder.pid : undefined;
  } catch {
    return undefined;
  }
}

function advice(reason: string): string {
  if (/EADDRINUSE/.test(reason)) return '\nChoose another one: PORT=8081 sh scripts/quickstart.sh';
  if (/is in use by another Tasklane server/.test(reason)) {
    return '\nStop that one, or start this one beside it: TASKLANE_DATA_DIR=.tasklane-2 PORT=8081 sh scripts/quickstart.sh';
  }
  return '';
}

function reachable(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1';
  if (host === '::') return '[::1]';
  return host.includes(':') ? `[${host}]` : host;
}
