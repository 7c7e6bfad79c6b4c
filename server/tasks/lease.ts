import { createCoalescer } from '../db/coalesce.ts';
import {
  type Extended,
  extendLeases,
  type Heartbeat,
  type Release,
  type Released,
  releaseTasks,
} from '../db/lease-tasks.ts';
import type { Database } from '../db/open.ts';
import type { conflict } from '../protocol/errors.ts';
import { type End, refusal } from './end.ts';
import type { Holders } from './holders.ts';
import type { Lanes } from './lanes.ts';
import type { Workers } from './workers.ts';

export type HeartbeatCall = {
  tasks: readonly Heartbeat[];
  worker: string | null;
  /** How long to wait for news; no longer than a third of the shortest lease, so that leases hold. */
  waitSeconds: number;
};

/** What the worker is to hear at once. An answer is its own, which overtook the heartbeat. */
const isNews = ({ verdict, answered }: Extended) => verdict === 'cancelled' || (verdict === 'lost' && !answered);

/** What a worker says of tasks that it holds, besides reporting on them and answering them. */
export function createLease(db: Database, lanes: Lanes, end: End, workers: Workers, holders: Holders) {
  const extend = createCoalescer<readonly Heartbeat[], readonly Extended[]>({
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
    /**
     * Extends the leases of tasks, and waits for one of them to be cancelled or lost, or another one of the worker. Gives a verdict a task, in the order
     * given, and those that were not named. Waits no longer when `signal` aborts, or when `isOver` says so.
     */
    async heartbeat(call: HeartbeatCall, signal: AbortSignal, isOver: () => boolean) {
      const { tasks, worker, waitSeconds } = call;
      const others = new Map<string, Extended['verdict']>();
      const look = async () => (tasks.length > 0 ? [...(await extend(tasks))] : []);
      if (waitSeconds === 0) return { rows: await look(), others };
      const untilMs = performance.now() + waitSeconds * 1000;
      const places = new Map(tasks.map(({ id }, place) => [id, place]));
      const holder = holders.join(worker, [...places.keys()]);
      try {
        let rows = await look();
        const shortest = Math.min(...rows.map((row) => row.lease_seconds ?? Number.POSITIVE_INFINITY));
        const endMs = Math.min(untilMs, performance.now() + (shortest * 1000) / 3);
        while (!rows.some(isNews) && others.size === 0) {
          const left = endMs - performance.now();
          if (left <= 0 || signal.aborted || isOver()) break;
          await holder.sleep(left, signal);
          const { gone, lookAgain } = holder.heard();
          if (lookAgain && !isOver()) rows = await look();
          if (gone.length === 0) continue;
          const now = await extend(gone.map(({ id, attempt }) => ({ id, attempt, leaseSeconds: null })));
          for (const [index, { id, taskId, attempt }] of gone.entries()) {
            const row = now[index] as Extended;
            const place = places.get(id);
            if (row.verdict === 'extended' || row.answered) continue;
            if (place === undefined) others.set(taskId, row.verdict);
            else if ((tasks[place]?.attempt ?? attempt) === attempt) rows[place] = row;
          }
        }
        return { rows, others };
      } finally {
        holder.leave();
      }
    },

    /** Why the task could not be released, as an error; undefined when it was. */
    async release(task: Release): Promise<ReturnType<typeof conflict> | undefined> {
      const { verdict, lane } = await giveBack(task);
      if (lane !== null) return undefined;
      return refusal(verdict, 'released', task.attempt);
    },
  };
}
