import type { Logger } from 'pino';
import { createCoalescer } from '../db/coalesce.ts';
import { isPassing } from '../db/errors.ts';
import type { Database } from '../db/open.ts';
import { outlast } from '../db/outlast.ts';
import { type Head, type TakenTask as Row, returnTasks, type Strategy, takeTasks } from '../db/take-tasks.ts';
import type { Feed } from './feed.ts';
import type { Heads } from './heads.ts';
import type { Lanes } from './lanes.ts';
import type { Pollers } from './pollers.ts';

/** A task as a worker gets it. */
export type TakenTask = Row & { data: string };
const isWhole = (task: Row): task is TakenTask => task.data !== null;

const MAX_TOGETHER = 1000;

export type TakeRequest = {
  /** `queue:level`. */
  lanes: readonly string[];
  size: number;
  strategy: Strategy;
  endpoint: string | null;
  minAgeSeconds: number;
  worker: string | null;
  leaseSeconds: number | null;
  /** How often a task may have been taken when its lease lapses and it still goes back; null: as it, or its queue, says. */
  maxAttempts: number | null;
  /** How long to wait for a first task. */
  waitSeconds: number;
};

export function createTake(
  db: Database,
  lanes: Lanes,
  heads: Heads,
  pollers: Pollers,
  feed: Feed,
  log: Logger,
  onTopUp: (laneIds: readonly number[]) => void,
) {
  type Submit = (request: TakeRequest) => Promise<TakenTask[]>;
  /** Waiting takes that found work only when they looked by themselves: a wake-up was lost. */
  let lateTakes = 0;
  const bySignature = new Map<string, { submit: Submit; open: number }>();

  // Callers that want the same share one call: two that choose without locks would collide, and the second come back empty.
  const takeNow = async (request: TakeRequest): Promise<TakenTask[]> => {
    const { strategy, endpoint, minAgeSeconds } = request;
    const signature = JSON.stringify([strategy, endpoint, minAgeSeconds, request.lanes]);
    let shared = bySignature.get(signature);
    if (!shared) {
      shared = { submit: createCoalescer({ run, maxItems: MAX_TOGETHER, count: (one) => one.size }), open: 0 };
      bySignature.set(signature, shared);
    }
    shared.open++;
    try {
      return await shared.submit(request);
    } finally {
      if (--shared.open === 0) bySignature.delete(signature);
    }
  };

  const run = async (requests: TakeRequest[]): Promise<TakenTask[][]> => {
    const { lanes: names, strategy, endpoint, minAgeSeconds } = requests[0] as TakeRequest;
    const start = heads.begin(names);
    const tasks = await takeTasks(db, {
      lanes: names,
      heads: start.heads,
      strategy,
      endpoint,
      minAgeSeconds,
      requests,
    });
    if (tasks.length === 0 && (await start.below)) return run(requests);
    if (tasks.length > 0) feed.rouse();
    const first = new Map<string, Head>();
    const dealt: TakenTask[][] = requests.map(() => []);
    const tooMuch: Row[] = [];
    const topUps = new Set<number>();
    for (const task of tasks) {
      const lane = names[task.turn - 1] as string;
      if (!first.has(lane)) first.set(lane, task);
      if (task.tops_up !== null) topUps.add(task.tops_up);
      if (isWhole(task)) dealt[task.request - 1]?.push(task);
      else tooMuch.push(task);
    }
    // With a minimum age a take passes over the young ones, so its first task says nothing of where the lane begins.
    if (minAgeSeconds === 0) start.seen(first);
    if (topUps.size > 0) onTopUp([...topUps]);
    if (tooMuch.length > 0) await giveBack(tooMuch);
    return dealt;
  };

  /** Puts tasks back where they were: nobody got them, or has begun with them. Never rejects, since nobody is left to be told. */
  const giveBack = async (tasks: readonly { id: string; attempt: number }[]): Promise<void> => {
    const back = await outlast(() => returnTasks(db, tasks)).catch((error) => {
      log.error(
        { err: error, tasks: tasks.length },
        'could not put tasks back; they wait again when their leases lapse',
      );
      return [];
    });
    lanes.waiting(back);
    for (const { lane, limited } of back) lanes.freed(lane, limited);
  };

  /**
   * Tasks for one worker, at once or as soon as there is one within the time it waits. None when `signal` aborts, or when `isOver` says so, which is asked
   * at every `pollers.wakeOver`. (A listener a take on a signal that lives as long as the server would chain them all together: V8 then carries each
   * through to its next full collection.)
   */
  const take = async (request: TakeRequest, signal: AbortSignal, isOver = () => false): Promise<TakenTask[]> => {
    if (request.waitSeconds === 0) return takeNow(request);
    const untilMs = performance.now() + request.waitSeconds * 1000;
    const poller = pollers.join(request, isOver);
    let woken = true;
    try {
      for (;;) {
        const sawAll = poller.looking();
        if (sawAll) {
          const tasks = await takeNow(request).catch((error) => {
            // Who waits anyway outlasts a database that is away for a moment.
            if (!isPassing(error) || performance.now() >= untilMs) throw error;
            return undefined;
          });
          if (tasks && (tasks.length < request.size || !tasks[0]?.more)) sawAll();
          if (tasks && tasks.length > 0) {
            if (!woken && request.minAgeSeconds === 0) lateTakes++;
            return tasks;
          }
        }
        if (performance.now() >= untilMs || isOver()) return [];
        const handed = await poller.sleep(untilMs, signal);
        if (handed.length > 0) return handed;
        woken = poller.woken;
        if (signal.aborted || isOver()) return [];
      }
    } finally {
      poller.leave();
    }
  };

  return { take, giveBack, lateTakes: () => lateTakes };
}
