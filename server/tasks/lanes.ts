import type { Bus } from './bus.ts';
import type { Feed } from './feed.ts';
import type { Heads } from './heads.ts';
import type { Pollers } from './pollers.ts';

/** `told`: other servers know already. */
type Waiting = { lane: string; rank: number; id: string; told?: boolean | null };

/** What must follow, here and on other servers, when a task comes to wait or stops running. */
export function createLanes(bus: Bus, heads: Heads, pollers: Pollers, feed: Feed) {
  return {
    /** Tasks came to wait: takes must look as far down as they are, and as many pollers wake. */
    waiting(rows: readonly Waiting[]): void {
      const counts = new Map<string, number>();
      for (const row of rows) {
        heads.lower(row.lane, row);
        if (!row.told) bus.wake(row.lane, row, 1);
        counts.set(row.lane, (counts.get(row.lane) ?? 0) + 1);
      }
      for (const [lane, count] of counts) pollers.wake(lane, count);
      feed.rouse();
    },

    /** Waiting tasks moved within their lanes. */
    moved(rows: readonly Waiting[]): void {
      for (const row of rows) {
        heads.lower(row.lane, row);
        bus.wake(row.lane, row, 0);
      }
      feed.rouse();
    },

    /** A queue's settings changed: it may have been resumed, or may have more running. */
    opened(queue: string): void {
      pollers.room(`${queue}:`);
      bus.room(`${queue}:`);
    },

    /** A task of the lane's queue stopped running; `limited`: the queue has a max_running. */
    freed(lane: string, limited: boolean): void {
      if (limited) {
        pollers.room(lane);
        bus.room(lane);
      } else {
        pollers.free(lane);
        bus.free(lane);
      }
      feed.rouse();
    },
  };
}
export type Lanes = ReturnType<typeof createLanes>;
