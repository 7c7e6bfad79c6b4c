import { type EndedTask, expireDue, expireTasks, type SweepPlace, sweepReady } from '../db/end-tasks.ts';
import type { Database } from '../db/open.ts';

const AT_ONCE = 1000;
const SLICE = 5000;

/** Ends every task whose deadline has passed, wherever it is, in short transactions. */
export async function expireOverdue(db: Database, onExpired: (ended: readonly EndedTask[]) => void): Promise<void> {
  for (;;) {
    const ended = await expireDue(db, AT_ONCE);
    onExpired(ended);
    if (ended.length < AT_ONCE) break;
  }
  let place: SweepPlace = { p_lane_id: 0, p_rank: 0, p_id: '0' };
  while (place.p_lane_id !== null) {
    const { expired, ...next } = await sweepReady(db, place, SLICE);
    if (expired) onExpired(await expireTasks(db, expired));
    place = next;
  }
}
