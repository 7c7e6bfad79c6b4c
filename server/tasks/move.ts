import { createCoalescer } from '../db/coalesce.ts';
import { findDead, type Moved, purgeDead, replayTasks, setPriorities } from '../db/move-tasks.ts';
import type { Database } from '../db/open.ts';
import { refusal } from './end.ts';
import type { Lanes } from './lanes.ts';

const AT_ONCE = 1000;

/** A task's later life, as its owner wants it: another priority, another life, or none. A tenant, where given, must own it. */
export function createMove(db: Database, lanes: Lanes) {
  const waits = (rows: readonly Moved[]) =>
    rows.flatMap(({ id, lane, rank }) => (lane === null || rank === null ? [] : [{ id, lane, rank }]));

  const prioritise = createCoalescer<{ id: string; tenantId: number | null; priority: number }, Moved>({
    async run(tasks) {
      const rows = await setPriorities(db, tasks);
      lanes.moved(waits(rows));
      return rows;
    },
  });

  const revive = async (tasks: readonly { id: string; tenantId: number | null }[]) => {
    const rows = await replayTasks(db, tasks);
    lanes.waiting(waits(rows));
    return rows;
  };

  return {
    /** Throws 404 and 409. */
    async setPriority(id: string, tenantId: number | null, priority: number): Promise<void> {
      const row = await prioritise({ id, tenantId, priority });
      if (row.refusal !== null) throw refusal(row.refusal, 'given another priority', null);
    },

    /** A new life for a dead task. Throws 404 and 409. */
    async replay(id: string, tenantId: number | null): Promise<void> {
      const [row] = await revive([{ id, tenantId }]);
      if (row && row.refusal !== null) throw refusal(row.refusal, 'replayed', null);
    },

    /** A new life for the oldest dead tasks, at most `limit`; gives how many. Throws 404 for an unknown queue. */
    async replayDead(tenantId: number | null, queue: string, limit: number): Promise<number> {
      let replayed = 0;
      while (replayed < limit) {
        const ids = await findDead(db, tenantId, queue, Math.min(AT_ONCE, limit - replayed));
        const rows = await revive(ids.map((id) => ({ id, tenantId })));
        const done = rows.filter((row) => row.refusal === null).length;
        replayed += done;
        // None left, or others replay the same ones.
        if (done === 0) break;
      }
      return replayed;
    },

    /** Removes all dead tasks; gives how many. Throws 404 for an unknown queue. */
    async purgeDead(tenantId: number | null, queue: string): Promise<number> {
      for (let purged = 0; ; ) {
        const gone = await purgeDead(db, tenantId, queue, AT_ONCE);
        purged += gone;
        if (gone < AT_ONCE) return purged;
      }
    },
  };
}
