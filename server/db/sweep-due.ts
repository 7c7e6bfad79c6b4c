import type { EndedTask } from './end-tasks.ts';
import type { LastAnswer } from './lease-tasks.ts';
import type { Database } from './open.ts';

/** What became of a task as time passed; `swept` says when all that was due had been seen to, `schedules` that ticks are due, `batches` that some are open, `upstreams` that a model server is out. */
export type Swept = EndedTask & {
  outcome: 'waiting' | 'moved' | 'freed' | 'dead' | 'expired' | 'swept' | 'schedules' | 'batches' | 'upstreams';
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

/** Ends live tasks that wait, and that nobody takes since all model servers of their queue are out; at most `limit`. */
export async function refuseWaiting(db: Database, limit: number): Promise<(EndedTask & { answer: LastAnswer })[]> {
  const rows = await db.call<EndedTask & { status_code: number; body: string }>('refuse_waiting', [limit], ['int']);
  return rows.map(({ status_code: statusCode, body, ...task }) => ({
    ...task,
    answer: { statusCode, body, requestId: null, headers: null },
  }));
}
