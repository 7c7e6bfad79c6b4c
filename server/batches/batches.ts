import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { claimBatches, foldBatches, nextExpiry, topUpLanes } from '../db/batches.ts';
import type { Database } from '../db/open.ts';
import { soon } from '../db/soon.ts';
import { createTails } from './tail.ts';
import { createBatchWork } from './work.ts';

/** Shortest time between two additions under load. */
const FOLD_GAP_MS = 50;
/** What a killed server left is taken up within the sum of these; the longest between two looks while batches are open. */
const LOOK_MS = 2000;
const QUIET_SECONDS = 4;
/** How many batches are worked on at once: each takes a core while its lines are looked at. */
const WORK_AT_ONCE = 2;

/** The life of batches in this process. */
export function startBatches(deps: {
  db: Database;
  log: Logger;
  maxLines: number;
  maxLineBytes: number;
  /** Aborts when the server is asked to stop: work on batches ends with the step that is under way. */
  stopping: AbortSignal;
  /** Tasks came to wait. */
  waiting(rows: readonly { id: string; lane: string; rank: number }[]): void;
  /** A running task of the lane ended. */
  freed(lane: string, limited: boolean): void;
  /** A batch ended, of which webhooks may be told. */
  onCallbacks(): void;
  /** There is work to do for these batches. */
  onWork(ids: readonly string[]): void;
}) {
  const { db, log, waiting, onWork } = deps;

  const topUp = async (laneIds: readonly number[] | null) => {
    if (laneIds?.length !== 0) waiting(await topUpLanes(db, laneIds));
  };

  const fold = async () => {
    const folded = await foldBatches(db);
    const ended = folded.filter((batch) => batch.ended).map((batch) => batch.batch_id);
    if (ended.length > 0) onWork(ended);
    tails.wake(new Set(folded.map((batch) => batch.batch_id)));
  };
  const tails = createTails(db, fold);

  const onError = (error: unknown) => log.warn({ err: error }, 'could not look after batches; trying again soon');
  const foldSoon = soon(async () => {
    await fold();
    await sleep(FOLD_GAP_MS);
  }, onError);
  let laneIds = new Set<number>();
  const topUpSoon = soon(async () => {
    const ids = [...laneIds];
    laneIds = new Set();
    await topUp(ids);
  }, onError);

  const { work, check } = createBatchWork({ ...deps, topUp, fold });
  /** Those that are worked on may be wanted as well: once more, afterwards. */
  const wanted = new Set<string>();
  const working = new Map<string, Promise<void>>();
  const workNext = () => {
    const id = working.size < WORK_AT_ONCE ? [...wanted].find((one) => !working.has(one)) : undefined;
    if (id === undefined || deps.stopping.aborted) return;
    wanted.delete(id);
    const done = work(id)
      .catch((error) => {
        if (!deps.stopping.aborted) log.warn({ err: error, batchId: id }, 'work on a batch failed; trying again soon');
      })
      .finally(() => {
        working.delete(id);
        workNext();
      });
    working.set(id, done);
    workNext();
  };

  /** Begins to work on a batch, or does when there is room. Does not wait for it. */
  const workOn = (id: string): void => {
    wanted.add(id);
    workNext();
  };

  const claim = async () => {
    for (const batch of await claimBatches(db, null, QUIET_SECONDS)) workOn(batch.batch_id);
  };
  let expiry: NodeJS.Timeout | undefined;
  const look = async () => {
    const expiresIn = await nextExpiry(db);
    // A window is over to the moment, not at the look that follows.
    clearTimeout(expiry);
    if (expiresIn !== null && expiresIn < LOOK_MS)
      expiry = setTimeout(() => void claim().catch(onError), expiresIn + 1);
    await fold();
    await topUp(null);
    await claim();
  };
  let looking: Promise<void> | undefined;

  return {
    check,
    fold,
    topUp,

    workOn,

    /** Batches are open: whatever was lost, or left by a server that was killed, is done. */
    lookAround(): void {
      if (deps.stopping.aborted) return;
      looking ??= look()
        .catch(onError)
        .finally(() => {
          looking = undefined;
        });
    },

    /** Lines of a batch ended in this process. */
    onEnded: foldSoon,

    /** A take came to where the window of a lane is to be topped up. */
    onTaken(lanes: readonly number[]): void {
      for (const laneId of lanes) laneIds.add(laneId);
      topUpSoon();
    },

    tail: tails.tail,

    /** Resolves when the steps that are under way are done. */
    async stop(): Promise<void> {
      await looking;
      clearTimeout(expiry);
      await Promise.all(working.values());
    },
  };
}
export type Batches = ReturnType<typeof startBatches>;
