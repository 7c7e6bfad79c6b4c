import type { Logger } from 'pino';
import type { Database } from '../db/open.ts';
import { waitingBelow } from '../db/take-tasks.ts';
import { createAftermath } from './aftermath.ts';
import { startBus } from './bus.ts';
import { createEnd } from './end.ts';
import { createFeed } from './feed.ts';
import { createFollow } from './follow.ts';
import { createHeads } from './heads.ts';
import { createHolders } from './holders.ts';
import { createLanes } from './lanes.ts';
import { createLease } from './lease.ts';
import { createMove } from './move.ts';
import { createPollers } from './pollers.ts';
import { createPredecessors } from './predecessors.ts';
import { createProgress } from './progress.ts';
import { createPut } from './put.ts';
import { createReaders } from './readers.ts';
import { startSweep } from './sweep.ts';
import { createTake } from './take.ts';
import { createWatchers } from './watchers.ts';
import { createWorkers } from './workers.ts';

/** The life of a task in this process: every way in and out, shared by HTTP, the WebSocket and the jobs. */
export async function startTasks(options: {
  db: Database;
  url: string;
  /** ip:port */
  instance: string;
  log: Logger;
  /** How long an idempotency key is remembered. */
  keySeconds: number;
  /** How long events are kept. */
  eventRetentionSeconds: number;
  onCallbacks(): void;
  /** Lines of batches ended. */
  onLines(): void;
  /** The windows of these lanes' batches are to be topped up. */
  onTopUp(laneIds: readonly number[]): void;
  onKeysChanged(): void;
  /** Ticks of schedules are due. */
  onSchedules(): void;
  /** Some batches are open; told every second, while they are. */
  onOpenBatches(): void;
}) {
  const {
    db,
    url,
    instance,
    log,
    keySeconds,
    eventRetentionSeconds,
    onCallbacks,
    onLines,
    onTopUp,
    onKeysChanged,
    onSchedules,
    onOpenBatches,
  } = options;
  const heads = createHeads((places) => waitingBelow(db, places));
  const pollers = createPollers((lanes, sequential) => bus.asleep(lanes, sequential));
  const watchers = createWatchers(db, log);
  const workers = createWorkers(db, log, pollers.wakeOver, (id) => void endPredecessorsOf(id));
  const holders = createHolders();
  const feed = createFeed(db, log, eventRetentionSeconds);
  const bus = await startBus({
    db,
    url,
    instance,
    log,
    handlers: {
      wake(lane, head, count) {
        heads.lower(lane, head);
        pollers.wake(lane, count);
      },
      ended(ids, progressed, bySql) {
        void watchers.heard(ids, progressed);
        if (bySql && ids.length > 0) onCallbacks();
      },
      answered: watchers.ended,
      free: pollers.free,
      room: pollers.room,
      drain: (ids) => void workers.heard(ids),
      gone: holders.gone,
      readElsewhere: (ids) => readers.elsewhere(ids),
      keysChanged: onKeysChanged,
      lookAround() {
        heads.lookAgain();
        pollers.wakeAll();
        holders.wakeAll();
        void watchers.lookAtAll();
      },
    },
  });
  const lanes = createLanes(bus, heads, pollers, feed);
  const end = createEnd({ db, bus, lanes, watchers, onCallbacks, onLines });
  const aftermath = createAftermath(lanes, end);
  const endPredecessorsOf = createPredecessors(db, aftermath, log);
  const sweep = startSweep(db, aftermath, end, log, onSchedules, onOpenBatches);
  const readers = createReaders(end, bus);

  return {
    ...createPut(db, bus, lanes, pollers, instance, keySeconds),
    ...createTake(db, lanes, heads, pollers, feed, log, onTopUp),
    ...createLease(db, lanes, end, workers, holders),
    ...createMove(db, lanes),
    ...createFollow(db, watchers),
    /** Ends the takes and heartbeats that wait, and are over. */
    wakeOver(): void {
      pollers.wakeOver();
      holders.wakeAll();
    },
    lanes,
    end,
    applyEvents: createProgress(db, bus, watchers, feed, end),
    readers,
    feed,
    workers,
    keysChanged: bus.keysChanged,
    async stop(): Promise<void> {
      await sweep.stop();
      workers.stop();
      watchers.stop();
      await feed.stop();
      await bus.stop();
    },
  };
}
export type Tasks = Awaited<ReturnType<typeof startTasks>>;
