type Kind = { sequential: boolean; choosy: boolean };
type Poller = Kind & { lanes: readonly string[]; woken: boolean; wake: (() => void) | undefined };

/** Longest sleep without a look, since a wake-up can be lost. */
const LOOK_MS = 1000;

/** Takes that found nothing and wait for work in their lanes. */
export function createPollers() {
  const byLane = new Map<string, Set<Poller>>();

  const rouse = (poller: Poller) => {
    poller.woken = true;
    poller.wake?.();
  };

  const rouseQueue = (lane: string, concerns: (poller: Poller) => boolean) => {
    if (byLane.size === 0) return;
    const queue = lane.slice(0, lane.lastIndexOf(':') + 1);
    for (const [name, there] of byLane) {
      if (!name.startsWith(queue)) continue;
      for (const poller of there) if (!poller.woken && concerns(poller)) rouse(poller);
    }
  };

  return {
    /**
     * Joins before its first look, so that work that comes between the look and the sleep is not missed. `choosy`: may well pass
     * over what waits in its lanes.
     */
    join(lanes: readonly string[], kind: Kind) {
      const poller: Poller = { lanes, ...kind, woken: false, wake: undefined };
      for (const lane of lanes) {
        const there = byLane.get(lane);
        if (there) there.add(poller);
        else byLane.set(lane, new Set([poller]));
      }
      return {
        looking() {
          poller.woken = false;
        },
        /** Whether it was woken, since it last looked. */
        get woken(): boolean {
          return poller.woken;
        },
        /** Until there may be work, `untilMs` (performance.now) has come, or `signal` aborts. */
        sleep(untilMs: number, signal: AbortSignal): Promise<void> {
          if (poller.woken || signal.aborted) return Promise.resolve();
          return new Promise((resolve) => {
            const done = () => {
              poller.wake = undefined;
              clearTimeout(timer);
              signal.removeEventListener('abort', done);
              resolve();
            };
            const timer = setTimeout(done, Math.max(0, Math.min(LOOK_MS, untilMs - performance.now())));
            poller.wake = done;
            signal.addEventListener('abort', done);
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
     * `count` tasks came to wait in a lane: wakes as many, who came first first. Who is choosy, or just looking and perhaps about to
     * leave with another task, is told but not counted: the task may not be for them.
     */
    wake(lane: string, count: number): void {
      let left = count;
      for (const poller of byLane.get(lane) ?? []) {
        if (left <= 0) return;
        if (poller.wake && !poller.choosy) left--;
        rouse(poller);
      }
    },

    /** A running task of the lane's queue ended: its next one is free for who takes in sequence. */
    free: (lane: string) => rouseQueue(lane, (poller) => poller.sequential),

    /** A running task ended in a queue with max_running: there is room for one more. */
    room: (lane: string) => rouseQueue(lane, () => true),

    wakeAll(): void {
      for (const there of byLane.values()) for (const poller of there) rouse(poller);
    },
  };
}
export type Pollers = ReturnType<typeof createPollers>;
