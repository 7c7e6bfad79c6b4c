import { type ChildProcess, spawn } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export type Running = { url: string; pid: number; stop(): Promise<void> };

/** Starts one of our programs, with flags before its name, and waits for the line that says where it listens. */
export async function start(program: readonly string[], env: Record<string, string>): Promise<Running> {
  const script = program.at(-1);
  const child: ChildProcess = spawn(process.execPath, program, {
    cwd: fileURLToPath(new URL('../../', import.meta.url)),
    // A server starts in 1.0 s instead of 1.4, of which a quick run has a dozen.
    env: { NODE_COMPILE_CACHE: 'node_modules/.cache/node', ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const url = await new Promise<string>((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`${script} ended with ${code}`)));
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      const found = /listening on (http:\S+)/.exec(line)?.[1];
      if (found) resolve(found);
    });
  });
  return {
    url,
    pid: child.pid as number,
    async stop() {
      child.kill('SIGTERM');
      await exited;
    },
  };
}

/** Linux's clock tick. */
const TICK_MS = 10;

/** ms of CPU that each process has used so far; 0 for one that is gone. */
async function cpuOf(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) * TICK_MS;
}

/** ms of CPU that Postgres has used so far: its postmaster, with all that ended below it, and its present processes. Linux only. */
export async function postgresCpu(dataDir: string): Promise<number> {
  const file = await readFile(`${dataDir}/postgres/postmaster.pid`, 'utf8');
  const postmaster = Number(file.split('\n')[0]);
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  let sum = await cpuOf(postmaster);
  const stat = await readFile(`/proc/${postmaster}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  sum += (Number(fields[13]) + Number(fields[14])) * TICK_MS;
  for (const pid of pids) {
    const status = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    if (Number(status.slice(status.lastIndexOf(')') + 2).split(' ')[1]) === postmaster) sum += await cpuOf(pid);
  }
  return sum;
}

export const serverCpu = ({ pid }: Running): Promise<number> => cpuOf(pid);
