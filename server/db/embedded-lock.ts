import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';

type Holder = { pid: number; owner: string; startedAt: string };

const SQLITE_BUSY = 5;

/**
 * Takes the folder's server lock for this process and returns the function that gives it back; throws, naming the holder, when another has it.
 *
 * The lock is one the kernel holds on `server.lock` (Node has no flock, its SQLite does), so it goes with the process however that ends, cannot be
 * mistaken for that of another process with the same pid, and has no moment in which two starters both believe that they replaced a stale one.
 * `server.json` beside it only tells people who holds it. `server.lock` stays behind, empty: removing it would let a third process lock a new
 * file while a second still waits on the old one.
 */
export async function lockFolder(folder: string, owner: string, shownAs: string): Promise<() => void> {
  const lock = new DatabaseSync(join(folder, 'server.lock'), { open: false });
  try {
    lock.open();
    lock.exec('pragma journal_mode = memory; begin exclusive');
  } catch (error) {
    if (lock.isOpen) lock.close();
    if ((error as { errcode?: number }).errcode !== SQLITE_BUSY) {
      throw new Error(`cannot lock data directory ${shownAs}: ${(error as Error).message}`, { cause: error });
    }
    throw new Error(`data directory ${shownAs} is in use by another Tasklane server${await describeHolder(folder)}`);
  }
  const holderFile = join(folder, 'server.json');
  const holder: Holder = { pid: process.pid, owner, startedAt: new Date().toISOString() };
  writeFileSync(holderFile, `${JSON.stringify(holder)}\n`);
  return () => {
    rmSync(holderFile, { force: true });
    lock.close();
  };
}

/** The holder writes its name just after it took the lock, so a missing or dead name is read again for a moment. */
async function describeHolder(folder: string): Promise<string> {
  for (let attempt = 0; attempt < 20; attempt++) {
    try {
      const holder = JSON.parse(readFileSync(join(folder, 'server.json'), 'utf8')) as Holder;
      process.kill(holder.pid, 0);
      return ` (pid ${holder.pid}, ${holder.owner})`;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EPERM') break;
      await sleep(25);
    }
  }
  return '';
}
