import type { Logger } from 'pino';
import type { Database } from '../db/open.ts';
import { repeat } from '../db/repeat.ts';
import { refuseWaiting, sweepDue } from '../db/sweep-due.ts';
import type { Aftermath } from './aftermath.ts';
import type { End } from './end.ts';

/** Twice as often doubled what an idle server costs. */
const SWEEP_MS = 1000;
const AT_ONCE = 1000;
/** Commits may be late by this; what was due earlier has been seen to by the sweep before. */
const LATE_MS = 10_000;
/** Now and then a sweep begins at the bottom, for a commit that was later still. */
const BOTTOM_MS = 60_000;
/** Without a sweep for so long, workers could not be heard either. */
const BREAK_MS = 3000;
/** Until then all of them have been heard again. */
const GRACE_MS = 10_000;

/**
 * Notices, within a second, leases that lapsed, delays and deadlines that are over, live tasks that a model server refuses for too long, schedules whose
 * tick has come, and that batches are open. Every server tries; one at a time sweeps. After a break, such as a database that was away, workers get the time
 * to be heard before their leases lapse.
 */
export function startSweep(
  db: Database,
  announce: Aftermath,
  end: End,
  log: Logger,
  onSchedules: () => void,
  onOpenBatches: () => void,
): { stop(): Promise<void> } {
  let since: number | null = null;
  let bottomAt = performance.now();
  let sweptAt = Number.NEGATIVE_INFINITY;
  let servedSince = 0;

  /** For how long workers could have been heard; null where that is long. */
  const servedMs = () => {
    const now = performance.now();
    if (now - sweptAt > BREAK_MS) servedSince = now;
    return now - servedSince < GRACE_MS ? now - servedSince : null;
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
      const served = servedMs();
      const rows = await sweepDue(db, AT_ONCE, since, served && served / 1000);
      sweptAt = performance.now();
      announce(rows);
      if (rows.some((row) => row.outcome === 'schedules')) onSchedules();
      if (rows.some((row) => row.outcome === 'batches')) onOpenBatches();
      if (rows.some((row) => row.outcome === 'upstreams')) await refuse();
      const done = rows.find((row) => row.outcome === 'swept');
      // Leases that are given more time are looked at again.
      if (done?.swept_at && served === null) since = done.swept_at - LATE_MS;
      // Rows without `swept`: some are left. No rows at all: somebody else sweeps.
      more = rows.length > 0 && done === undefined;
    }
  };

  return repeat(SWEEP_MS, sweep, (error) => log.warn({ err: error }, 'could not sweep what is due'));
}
