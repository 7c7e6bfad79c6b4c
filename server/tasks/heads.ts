import type { Head } from '../db/take-tasks.ts';

const START: Head = { rank: 0, id: '0' };
const RESET_MS = 1000;

type Entry = { head: Head; lowered: number; resetAt: number };

/**
 * Where each lane's living tasks begin, as far as this process knows. A take that starts there does not walk over what
 * earlier takes deleted, which costs it dearly while some session holds an old snapshot. A head that is too high hides tasks:
 * so everything that puts a row below it lowers it, and once a second a take starts at the bottom.
 */
export function createHeads(now: () => number = performance.now.bind(performance)) {
  const lanes = new Map<string, Entry>();

  return {
    /** Where takes of these lanes may start, and a function that keeps what the take saw: the first task of each lane. */
    begin(names: readonly string[]): { heads: Head[]; seen(first: ReadonlyMap<string, Head>): void } {
      const at = now();
      const starts = names.map((name) => {
        const entry = lanes.get(name);
        if (!entry) return { head: START, lowered: 0 };
        if (at - entry.resetAt < RESET_MS) return { head: entry.head, lowered: entry.lowered };
        entry.resetAt = at;
        return { head: START, lowered: entry.lowered };
      });
      return {
        heads: starts.map((start) => start.head),
        seen(first) {
          for (const [index, name] of names.entries()) {
            const head = first.get(name);
            if (!head) continue;
            const entry = lanes.get(name);
            if (!entry) lanes.set(name, { head, lowered: 0, resetAt: at });
            // Lowered while the take was under way: what it saw may be above the new row.
            else if (entry.lowered === starts[index]?.lowered) entry.head = head;
          }
        },
      };
    },

    /** A task came to wait at `head`. */
    lower(lane: string, head: Head): void {
      const entry = lanes.get(lane);
      if (entry && isBelow(head, entry.head)) {
        entry.head = head;
        entry.lowered++;
      }
    },
  };
}
export type Heads = ReturnType<typeof createHeads>;

/** Whether `a` comes before `b` in a lane. */
export function isBelow(a: Head, b: Head): boolean {
  if (a.rank !== b.rank) return a.rank < b.rank;
  return a.id.length !== b.id.length ? a.id.length < b.id.length : a.id < b.id;
}
