import type { Logger } from 'pino';
import type { Database } from '../db/open.ts';
import { repeat } from '../db/repeat.ts';
import { refuseWaiting, type Swept, sweepDue } from '../db/sweep-due.ts';
import type { End } from './end.ts';
import type { Lanes } from './lanes.ts';

/** Twice as often doubled what an idle server costs. */
const SWEEP_MS = 1000;
const AT_ONCE = 1000;
/** Commits may be late by this; what was due earlier has been seen to by the sweep before. */
const LATE_MS = 10_000;
/** Now and then a sweep begins at the bottom, for a commit that was later still. */
const BOTTOM_MS = 60_000;

/**
 * Notices, within a second, leases that lapsed, delays and deadlines that are over, live tasks that a model server refuses for too long, schedules whose
 * tick has come, and that batches are open. Every server tries; one at a time sweeps.
 */
export function startSweep(
  db: Database,
  lanes: Lanes,
  end: End,
  log: Logger,
  onSchedules: () => void,
  onOpenBatches: () => void,
): { stop(): Promise<void> } {
  let since: number | null = null;
  let bottomAt = performance.now();

  const announce = (rows: readonly Swept[]) => {
    const of = (outcome: Swept['outcome']) => rows.filter((row) => row.outcome === outcome);
    lanes.waiting(of('waiting'));
    lanes.moved(of('moved'));
    end.announceUnanswered(of('dead'), 'dead');
    end.announceUnanswered(of('expired'), 'expired');
    for (const { lane, limited } of of('freed')) lanes.freed(lane, limited);
    if (of('schedules').length > 0) onSchedules();
    if (of('batches').length > 0) onOpenBatches();
  };

  const refuse = async () => {
    for (let more = true; more; ) {
      const rows = await refuseWaiting(db, AT_ONCE);
      end.announceDead(rows);
      more = rows.length === AT_ONCE;
    }
  };

  const sweep = async () => {
    for (let more = true; more; ) {
      if (performance.now() - bottomAt > BOTTOM_MS) {
        bottomAt = performance.now();
        since = null;
      }
      const rows = await sweepDue(db, AT_ONCE, since);
      announce(rows);
      if (rows.some((row) => row.outcome === 'upstreams')) await refuse();
      const done = rows.find((row) => row.outcome === 'swept');
      if (done?.swept_at) since = done.swept_at - LATE_MS;
      // Rows without `swept`: some are left. No rows at all: somebody else sweeps.
      more = rows.length > 0 && done === undefined;
    }
  };

  return repeat(SWEEP_MS, sweep, (error) => log.warn({ err: error }, 'could not sweep what is due'));
}
