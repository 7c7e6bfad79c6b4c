import type { Head, Place } from '../db/take-tasks.ts';

const START: Head = { rank: 0, id: '0' };
/** How long after a look below the next one begins, at least; */
const LOOK_MS = 1000;
/** how many times as long as the last one took, so that looks have a fiftieth of a core, much as was deleted; */
const REST = 50;
/** and at most. */
const MAX_REST_MS = 60_000;

type Entry = { head: Head; lowered: number; lookAt: number };

/**
 * Where each lane's living tasks begin, as far as this process knows. A take that starts there does not walk over what
 * earlier takes deleted, which costs it dearly while some session holds an old snapshot. A head that is too high hides tasks:
 * so everything that puts a row below it lowers it, and once a second, beside a take, `look` is asked for what waits below.
 */
export function createHeads(
  look: (places: readonly Place[]) => Promise<readonly Place[]>,
  now: () => number = performance.now.bind(performance),
) {
  const lanes = new Map<string, Entry>();

  const lower = (lane: string, head: Head): void => {
    const entry = lanes.get(lane);
    if (entry && isBelow(head, entry.head)) {
      entry.head = head;
      entry.lowered++;
    }
  };

  /** Whether something waits below these heads, which are then lower. */
  const lookBelow = async (due: readonly (readonly [string, Entry])[]): Promise<boolean> => {
    const at = now();
    for (const [, entry] of due) entry.lookAt = Number.POSITIVE_INFINITY;
    // Whatever fails here, the take beside it meets and tells.
    const found = await look(due.map(([lane, { head }]) => ({ lane, ...head }))).catch(() => undefined);
    for (const { lane, ...head } of found ?? []) lower(lane, head);
    const ended = now();
    const rest = found ? Math.min(MAX_REST_MS, Math.max(LOOK_MS, REST * (ended - at))) : LOOK_MS;
    for (const [, entry] of due) entry.lookAt = ended + rest;
    return found !== undefined && found.length > 0;
  };

  return {
    /**
     * Where takes of these lanes may start; a function that keeps what the take saw, the first task of each lane; and where a look has begun, whether that
     * finds something below, so that a take which comes back empty must be made again.
     */
    begin(names: readonly string[]): {
      heads: Head[];
      seen(first: ReadonlyMap<string, Head>): void;
      below: Promise<boolean> | undefined;
    } {
      const at = now();
      const due: [string, Entry][] = [];
      const starts = names.map((name) => {
        const entry = lanes.get(name);
        if (entry && entry.lookAt <= at) due.push([name, entry]);
        return { head: entry?.head ?? START, lowered: entry?.lowered ?? 0 };
      });
      return {
        heads: starts.map((start) => start.head),
        below: due.length > 0 ? lookBelow(due) : undefined,
        seen(first) {
          for (const [index, name] of names.entries()) {
            const head = first.get(name);
            if (!head) continue;
            const entry = lanes.get(name);
            if (!entry) lanes.set(name, { head, lowered: 0, lookAt: at + LOOK_MS });
            // Lowered while the take was under way: what it saw may be above the new row.
            else if (entry.lowered === starts[index]?.lowered) entry.head = head;
          }
        },
      };
    },

    /** A task came to wait at `head`. */
    lower,

    /** Messages may have been lost: the next take of each lane looks below. */
    lookAgain(): void {
      for (const entry of lanes.values()) entry.lookAt = 0;
    },
  };
}
export type Heads = ReturnType<typeof createHeads>;

/** Whether `a` comes before `b` in a lane. */
export function isBelow(a: Head, b: Head): boolean {
  if (a.rank !== b.rank) return a.rank < b.rank;
  return a.id.length !== b.id.length ? a.id.length < b.id.length : a.id < b.id;
}
