import { createCoalescer } from '../db/coalesce.ts';
import { extendLeases, type Heartbeat, type Release, type Released, releaseTasks } from '../db/lease-tasks.ts';
import type { Database } from '../db/open.ts';
import type { conflict } from '../protocol/errors.ts';
import { type End, refusal } from './end.ts';
import type { Lanes } from './lanes.ts';
import type { Workers } from './workers.ts';

/** What a worker says of tasks that it holds, besides reporting on them and answering them. */
export function createLease(db: Database, lanes: Lanes, end: End, workers: Workers) {
  const extend = createCoalescer<readonly Heartbeat[], Awaited<ReturnType<typeof extendLeases>>>({
    maxItems: 5000,
    count: (group) => group.length,
    async run(groups) {
      const rows = await extendLeases(db, groups.flat());
      workers.seen(new Set(rows.flatMap((row) => row.worker ?? [])));
      let from = 0;
      return groups.map((group) => {
        const own = rows.slice(from, from + group.length);
        from += group.length;
        return own;
      });
    },
  });

  const giveBack = createCoalescer<Release, Released>({
    bytes: ({ answer }) => answer?.body.length ?? 0,
    async run(tasks) {
      const rows = await releaseTasks(db, tasks);
      const given = rows.flatMap(({ lane, ...row }, index) =>
        lane === null ? [] : [{ ...row, lane, answer: tasks[index]?.answer ?? null }],
      );
      lanes.waiting(given.filter((row) => row.verdict === 'waiting'));
      end.announceDead(given.filter((row) => row.verdict === 'dead'));
      for (const { verdict, lane, limited } of given) if (verdict !== 'dead') lanes.freed(lane, limited);
      return rows;
    },
  });

  return {
    /** Extends the leases of tasks; gives a verdict a task, in the order given. */
    heartbeat: extend,

    /** Why the task could not be released, as an error; undefined when it was. */
    async release(task: Release): Promise<ReturnType<typeof conflict> | undefined> {
      const { verdict, lane } = await giveBack(task);
      if (lane !== null) return undefined;
      return refusal(verdict, 'released', task.attempt);
    },
  };
}
