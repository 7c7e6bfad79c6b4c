import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { claimBatches, foldBatches, hasOpenBatches, topUpLanes } from '../db/batches.ts';
import type { EndedLane } from '../db/end-tasks.ts';
import type { Database } from '../db/open.ts';
import { outlast } from '../db/outlast.ts';
import { repeat } from '../db/repeat.ts';
import { createBatchWork } from './work.ts';

/** Shortest time between two additions under load. */
const FOLD_GAP_MS = 50;
/** What a killed server left is taken up after this. */
const LOOK_MS = 5000;
const QUIET_SECONDS = 5;

/** The life of batches in this process. */
export function startBatches(deps: {
  db: Database;
  log: Logger;
  maxLines: number;
  maxLineBytes: number;
  /** Tasks came to wait. */
  waiting(rows: readonly { id: string; lane: string; rank: number }[]): void;
  /** Running tasks ended. */
  freed(lanes: readonly EndedLane[]): void;
  /** A batch ended, of which webhooks may be told. */
  onCallbacks(): void;
  /** There is work to do for these batches. */
  onWork(ids: readonly string[]): void;
}) {
  const { db, log, waiting, onWork } = deps;
  const stopping = new AbortController();
  const { signal } = stopping;
  const tails = new Set<{ id: string; wake(): void }>();

  const topUp = async (laneIds: readonly number[] | null) => {
    if (laneIds?.length !== 0) waiting(await topUpLanes(db, laneIds));
  };

  const fold = async () => {
    const folded = await foldBatches(db);
    const ended = folded.filter((batch) => batch.ended).map((batch) => batch.batch_id);
    if (ended.length > 0) onWork(ended);
    const ids = new Set(folded.map((batch) => batch.batch_id));
    for (const tail of tails) if (ids.has(tail.id)) tail.wake();
  };

  // Both say only that there is something: while one look is under way, any number of others become one more.
  const folding = soon(async () => {
    await fold();
    await sleep(FOLD_GAP_MS);
  }, log);
  let laneIds = new Set<number>();
  const toppingUp = soon(async () => {
    const ids = [...laneIds];
    laneIds = new Set();
    await topUp(ids);
  }, log);

  const { work, check } = createBatchWork({ ...deps, topUp, fold });

  const lookAround = async () => {
    if (!(await hasOpenBatches(db))) return;
    await fold();
    await topUp(null);
    const claimed = await claimBatches(db, null, QUIET_SECONDS);
    if (claimed.length > 0) onWork(claimed.map((batch) => batch.batch_id));
  };
  const looking = repeat(LOOK_MS, lookAround, (error) => log.warn({ err: error }, 'could not look after batches'));

  return {
    check,
    fold,
    topUp,
    lookAround,
    work: (id: string) => work(id, signal),

    /** Lines of a batch ended in this process. */
    onEnded: folding,

    /** A take came to where the window of a lane is to be topped up. */
    onTaken(lanes: readonly number[]): void {
      for (const laneId of lanes) laneIds.add(laneId);
      toppingUp();
    },

    /** Calls `wake` when more lines of a batch have ended, for as long as the returned function is not called. */
    tail(id: string, wake: () => void): () => void {
      const one = { id, wake };
      tails.add(one);
      return () => tails.delete(one);
    },

    /** Resolves when the step that is under way is done. */
    async stop(): Promise<void> {
      stopping.abort();
      await looking.stop();
    },
  };

  function soon(call: () => Promise<void>, logger: Logger): () => void {
    let busy = false;
    let again = false;
    const run = async () => {
      busy = true;
      do {
        again = false;
        await outlast(call, signal).catch((error) => {
          if (!signal.aborted) logger.warn({ err: error }, 'could not look after batches; it will be done soon');
        });
      } while (again && !signal.aborted);
      busy = false;
    };
    return () => {
      if (busy) again = true;
      else void run();
    };
  }
}
export type Batches = ReturnType<typeof startBatches>;
