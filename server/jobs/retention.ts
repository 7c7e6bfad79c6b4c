import type { Logger } from 'pino';
import type { Database } from '../db/open.ts';
import { repeat } from '../db/repeat.ts';
import { REMOVALS, remove } from '../db/upkeep.ts';

const LOOK_MS = 10_000;
/** Slices of one removal in a round: what is more waits for the next, so that the database has time for others. */
const MOST_SLICES = 50;

/** Removes every 10 seconds what is older, or more, than queues keep. Any number of servers may: the functions let one at a time. */
export function startRetention(db: Database, log: Logger) {
  let stopped = false;

  const removeAll = async () => {
    for (const removal of REMOVALS) {
      let slices = 0;
      while (!stopped && slices < MOST_SLICES && (await remove(db, removal))) slices++;
    }
  };

  const rounds = repeat(LOOK_MS, removeAll, (error) =>
    log.warn({ err: error }, 'could not remove finished tasks; trying again soon'),
  );

  return {
    /** Resolves when the slice that is under way is done. */
    async stop(): Promise<void> {
      stopped = true;
      await rounds.stop();
    },
  };
}
