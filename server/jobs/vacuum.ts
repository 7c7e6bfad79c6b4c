import type { Logger } from 'pino';
import type { Database } from '../db/open.ts';
import { repeat } from '../db/repeat.ts';
import { deadRows, vacuum } from '../db/upkeep.ts';

const LOOK_MS = 10_000;
const DEAD_ROWS = 10_000;
const LONGEST_MS = 320_000;

/**
 * Vacuums tables whose rows live for seconds as soon as there is something to clean up. Autovacuum comes once in its `autovacuum_naptime` (60 s as
 * Postgres is delivered); every 10 s it would cost an idle machine more than all else that Tasklane does. While some session holds an
 * old snapshot little can be cleaned up, and each walk would go over all the dead rows there are: so it waits twice as long after each of those.
 */
export function createVacuum(db: Database, now: () => number = performance.now.bind(performance)) {
  const pauses = new Map<string, { ms: number; until: number }>();

  return async (): Promise<void> => {
    for (const [table, dead] of await deadRows(db)) {
      const pause = pauses.get(table);
      if (dead < DEAD_ROWS || now() < (pause?.until ?? 0)) continue;
      await vacuum(db, table);
      const left = (await deadRows(db)).get(table) ?? 0;
      if (left < dead / 2) pauses.delete(table);
      else {
        const ms = Math.min(2 * (pause?.ms ?? LOOK_MS), LONGEST_MS);
        pauses.set(table, { ms, until: now() + ms });
      }
    }
  };
}

export const startVacuum = (db: Database, log: Logger): { stop(): Promise<void> } =>
  repeat(LOOK_MS, createVacuum(db), (error) => log.warn({ err: error }, 'could not vacuum; autovacuum will'));
