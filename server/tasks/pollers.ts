import type { TakenTask, TakeRequest } from './take.ts';

export type Poller = {
  request: TakeRequest;
  /** Waits for the running task of its queue to end. */
  sequential: boolean;
  /** May well pass over what waits in its lanes. */
  choosy: boolean;
  /** Has whatever comes first, whichever lane that is in; so a put may hand it tasks. */
  plain: boolean;
  woken: boolean;
  /** Ends its sleep, with the tasks that it was handed. */
  wake: ((tasks: TakenTask[]) => void) | undefined;
  /** How many tasks are on their way to it. */
  promised: number;
  /** Whether nobody waits for it any more, though its time has not come. */
  isOver(): boolean;
};

/** Longest sleep without a look, since a wake-up can be lost. */
const LOOK_MS = 1000;
/** For how long nobody needs to look at a lane that was seen empty. Short, so that a lost wake-up costs little more than a sleep. */
const EMPTY_MS = 500;

/** What the lanes of its queue begin with. */
export const queueOf = (lane: string) => lane.slice(0, lane.lastIndexOf(':') + 1);

/** Takes that found nothing and wait for work in their lanes. `onSleep` is told of each that goes to sleep. */
export function createPollers(
  onSleep: (lanes: readonly string[], sequential: boolean) => void = () => undefined,
  now: () => number = performance.now.bind(performance),
) {
  const byLane = new Map<string, Set<Poller>>();
  /** When a lane was seen empty; nothing came to wait in it since. */
  const emptyAt = new Map<string, number>();
  /** By lane, which piece of news was the last that something may wait there; pieces are counted. */
  const filledBy = new Map<string, number>();
  let news = 0;
  let allFilledBy = 0;

  const rouse = (poller: Poller) => {
    poller.woken = true;
    // One that was promised tasks sleeps until it has them.
    if (poller.promised === 0) poller.wake?.([]);
  };

  const filled = (lane: string) => {
    filledBy.set(lane, ++news);
    emptyAt.delete(lane);
  };

  const rouseQueue = (lane: string, concerns: (poller: Poller) => boolean) => {
    const queue = queueOf(lane);
    for (const [name, there] of byLane) {
      if (!name.startsWith(queue)) continue;
      for (const poller of there) if (!poller.woken && concerns(poller)) rouse(poller);
    }
  };

  return {
    /** Joins before its first look, so that work that comes between the look and the sleep is not missed. */
    join(request: TakeRequest, isOver = () => false) {
      const { lanes, strategy } = request;
      const choosy = strategy === 'sequential' || request.endpoint !== null || request.minAgeSeconds > 0;
      const poller: Poller = {
        request,
        sequential: strategy === 'sequential',
        choosy,
        plain: strategy === 'fifo' && !choosy,
        woken: false,
        wake: undefined,
        promised: 0,
        isOver,
      };
      for (const lane of lanes) {
        const there = byLane.get(lane);
        if (there) there.add(poller);
        else byLane.set(lane, new Set([poller]));
      }
      return {
        /**
         * It looks, and calls what this gives when nothing is left. Nothing is given where a look is of no use: somebody has
         * just seen that its lanes are empty.
         */
        looking(): (() => void) | undefined {
          poller.woken = false;
          const [at, before] = [now(), news];
          const isEmpty = (lane: string) => (emptyAt.get(lane) ?? Number.NEGATIVE_INFINITY) > at - EMPTY_MS;
          if (poller.plain && lanes.every(isEmpty)) return undefined;
          return () => {
            if (!poller.plain || allFilledBy > before) return;
            for (const lane of lanes) if ((filledBy.get(lane) ?? 0) <= before) emptyAt.set(lane, at);
          };
        },
        /** Whether it was woken, since it last looked. */
        get woken(): boolean {
          return poller.woken;
        },
        /** Until there may be work, it is handed some, `untilMs` (performance.now) has come, or `signal` aborts. */
        sleep(untilMs: number, signal: AbortSignal): Promise<TakenTask[]> {
          if (poller.woken || signal.aborted) return Promise.resolve([]);
          onSleep(lanes, poller.sequential);
          return new Promise((resolve) => {
            const done = (tasks: TakenTask[]) => {
              poller.wake = undefined;
              clearTimeout(timer);
              signal.removeEventListener('abort', over);
              resolve(tasks);
            };
            const over = () => {
              if (poller.promised === 0) done([]);
              else poller.woken = true;
            };
            const timer = setTimeout(over, Math.max(0, Math.min(LOOK_MS, untilMs - performance.now())));
            poller.wake = done;
            signal.addEventListener('abort', over);
          });
        },
        leave() {
          for (const lane of lanes) {
            const there = byLane.get(lane);
            there?.delete(poller);
            if (there?.size === 0) byLane.delete(lane);
          }
        },
      };
    },

    /**
     * The sleeping take that is to have a task about to be put into a lane; who came first first. It sleeps on until `hand` is called, once for
     * all that it was promised.
     */
    promise(lane: string): Poller | undefined {
      for (const poller of byLane.get(lane) ?? []) {
        if (!poller.plain || !poller.wake || poller.woken || poller.promised >= poller.request.size) continue;
        poller.promised++;
        return poller;
      }
      return undefined;
    },

    /** Hands over the tasks that were promised, or those that could be had. */
    hand(poller: Poller, tasks: TakenTask[]): void {
      poller.promised = 0;
      if (tasks.length > 0 || poller.woken) poller.wake?.(tasks);
    },

    /**
     * `count` tasks came to wait in a lane: wakes as many, who came first first. Who is choosy, just looking or about to be handed tasks, and so
     * perhaps about to leave with another task, is told but not counted: the task may not be for them.
     */
    wake(lane: string, count: number): void {
      filled(lane);
      let left = count;
      for (const poller of byLane.get(lane) ?? []) {
        if (left <= 0) return;
        if (poller.wake && !poller.choosy && poller.promised === 0) left--;
        rouse(poller);
      }
    },

    /** A running task of the lane's queue ended: its next one is free for who takes in sequence. */
    free: (lane: string) => rouseQueue(lane, (poller) => poller.sequential),

    /** What waits in the lane's queue may be had now: a running task ended in a queue with max_running, or the queue was resumed. */
    room(lane: string): void {
      const queue = queueOf(lane);
      for (const lanes of [byLane, emptyAt]) for (const name of lanes.keys()) if (name.startsWith(queue)) filled(name);
      rouseQueue(lane, () => true);
    },

    /** Ends the sleep of the takes that are over. */
    wakeOver(): void {
      for (const there of byLane.values()) for (const poller of there) if (poller.isOver()) rouse(poller);
    },

    wakeAll(): void {
      allFilledBy = ++news;
      emptyAt.clear();
      for (const there of byLane.values()) for (const poller of there) rouse(poller);
    },
  };
}
export type Pollers = ReturnType<typeof createPollers>;
