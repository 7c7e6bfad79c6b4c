import type { EndedTask } from './end-tasks.ts';
import type { Database } from './open.ts';

/** What became of a task as time passed; `swept` says when all that was due had been seen to, `schedules` that ticks are due, `batches` that some are open. */
export type Swept = EndedTask & {
  outcome: 'waiting' | 'moved' | 'freed' | 'dead' | 'expired' | 'swept' | 'schedules' | 'batches';
  rank: number;
  /** Of `swept`: epoch ms. */
  swept_at: number | null;
};

/**
 * Does what is due: leases that lapsed, delays and deadlines that are over, ageing. `since` (epoch ms): earlier things have been seen to. `servedSeconds`:
 * for how long workers could have been heard; null where that is long.
 */
export function sweepDue(db: Database, limit: number, since: number | null, servedSeconds: number | null) {
  return db.call<Swept>(
    'sweep_due',
    [limit, since === null ? '-infinity' : new Date(since).toISOString(), servedSeconds],
    ['int', 'timestamptz', 'float8'],
  );
}
