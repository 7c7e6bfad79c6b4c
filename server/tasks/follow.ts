import { createCoalescer } from '../db/coalesce.ts';
import { readEvents, type StoredEvent } from '../db/events.ts';
import type { Database } from '../db/open.ts';
import { outlast } from '../db/outlast.ts';
import { type Ending, readEndings } from '../db/read-tasks.ts';
import type { Answered, Watchers } from './watchers.ts';

const READ_AT_ONCE = 500;
/** Events that came in while the reader was slow are dropped from memory and read from the database later. */
const MAX_FRESH = 100;

export function createFollow(db: Database, watchers: Watchers) {
  const read = createCoalescer<{ id: string; seq: number }, StoredEvent[]>({
    async run(after) {
      const unique = [...new Map(after.map((one) => [`${one.id} ${one.seq}`, one])).values()];
      const rows = await readEvents(db, unique, READ_AT_ONCE);
      const byTask = Map.groupBy(rows, (row) => row.id);
      // Readers of one task who are at different events get each other's rows: some twice, and beyond their own.
      return after.map((one) =>
        (byTask.get(one.id) ?? [])
          .filter((row, n, all) => row.seq > one.seq && row.seq !== all[n - 1]?.seq)
          .slice(0, READ_AT_ONCE),
      );
    },
  });
  const readEnding = createCoalescer<string, Ending | undefined>({
    async run(ids) {
      const endings = new Map((await readEndings(db, ids)).map((ending) => [ending.id, ending]));
      return ids.map((id) => endings.get(id));
    },
  });

  /** How a task ended, as soon as it has; undefined when `signal` aborts first. `before`: it may have ended before. */
  const untilEnd = (id: string, signal: AbortSignal, before: boolean): Promise<Answered | undefined> =>
    new Promise((resolve) => {
      const unwatch = watchers.watch(id, { ended: done, progressed() {} });
      // Should this fail, the watchers look again within a second.
      if (before)
        readEnding(id).then(
          (ending) => ending && done(ending),
          () => undefined,
        );
      signal.addEventListener('abort', () => done(undefined), { once: true });
      if (signal.aborted) done(undefined);
      function done(how: Answered | undefined) {
        unwatch();
        resolve(how);
      }
    });

  /** A task's events after a number, each once and in order, and at last how it ended. Ends early when `signal` aborts. */
  async function* follow(
    id: string,
    after: number,
    signal: AbortSignal,
  ): AsyncGenerator<{ event: StoredEvent } | { ending: Ending }> {
    let cursor = after;
    let look = true;
    let ended = false;
    // Kept from when it is first seen: a slow reader gets it even if the task has been removed meanwhile.
    let ending: Ending | undefined;
    let fresh: StoredEvent[] = [];
    let wake: (() => void) | undefined;
    const rouse = () => wake?.();
    const unwatch = watchers.watch(id, {
      ended() {
        ended = true;
        rouse();
      },
      progressed(event) {
        if (event && fresh.length < MAX_FRESH) fresh.push(event);
        else look = true;
        rouse();
      },
    });
    signal.addEventListener('abort', rouse);
    try {
      ending = await outlast(() => readEnding(id), signal);
      if (ending) ended = true;
      while (!signal.aborted) {
        if (look || ended) {
          const last = ended;
          look = false;
          fresh = [];
          if (last) ending ??= await outlast(() => readEnding(id), signal);
          const rows = await outlast(() => read({ id, seq: cursor }), signal);
          for (const event of rows) {
            yield { event };
            cursor = event.seq;
          }
          if (rows.length === READ_AT_ONCE) look = true;
          else if (last) {
            if (ending) yield { ending };
            return;
          }
          continue;
        }
        const event = fresh.shift();
        if (event) {
          if (event.seq > cursor + 1) look = true;
          else if (event.seq === cursor + 1) {
            yield { event };
            cursor = event.seq;
          }
          continue;
        }
        await new Promise<void>((resolve) => {
          wake = resolve;
          if (look || ended || fresh.length > 0 || signal.aborted) resolve();
        });
        wake = undefined;
      }
    } finally {
      unwatch();
      signal.removeEventListener('abort', rouse);
    }
  }

  return { follow, untilEnd };
}
