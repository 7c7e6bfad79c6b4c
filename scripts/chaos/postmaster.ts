import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The pid of the embedded Postgres in a data directory; undefined while there is none: its file comes, is empty for a moment, and goes. */
export function postmasterPid(dataDir: string): number | undefined {
  try {
    // Never 0, which as a pid would mean this process's own group.
    return Number(readFileSync(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8').split('\n')[0]) || undefined;
  } catch {
    return undefined;
  }
}

/** Kills it with -9, and gives its pid. */
export function killPostmaster(dataDir: string): number | undefined {
  const pid = postmasterPid(dataDir);
  try {
    if (pid !== undefined) process.kill(pid, 'SIGKILL');
  } catch {
    // gone since
  }
  return pid;
}
