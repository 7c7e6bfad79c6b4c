import type { Logger } from 'pino';
import { createCoalescer } from '../db/coalesce.ts';
import type { Database } from '../db/open.ts';
import { readDraining, type SeenWorker, seeWorkers } from '../db/workers.ts';

const FLUSH_MS = 5000;
/** A worker that has not been seen for so long is new when it comes back. */
const FORGET_MS = 600_000;
const MAX_LANES = 1000;

/** What a take says of its worker. */
export type WorkerSays = { id: string; name?: string | null | undefined; capacities?: object | null | undefined };

type Entry = {
  name: string | null;
  capacities: string | null;
  lanes: Set<string>;
  seenAt: number;
  seen: boolean;
  open: number;
  /** The last write of what it says. */
  writing: Promise<void> | undefined;
  draining: boolean;
};

/**
 * Who takes tasks here. What a worker says of itself is written when it is news; that it was seen, for all of them together every five
 * seconds, which also tells who is draining, should the message have been lost.
 */
export function createWorkers(db: Database, log: Logger, onDrain: () => void) {
  const workers = new Map<string, Entry>();

  const entryOf = (id: string): Entry => {
    const there = workers.get(id);
    if (there) return there;
    const entry: Entry = {
      name: null,
      capacities: null,
      lanes: new Set(),
      seenAt: 0,
      seen: false,
      open: 0,
      writing: undefined,
      draining: false,
    };
    workers.set(id, entry);
    return entry;
  };

  const told = (rows: readonly { worker: string; draining: boolean }[]) => {
    for (const { worker, draining } of rows) {
      const entry = workers.get(worker);
      if (entry) entry.draining = draining;
    }
    if (rows.some((row) => row.draining)) onDrain();
  };

  // One call at a time, which many share: what an older one says of drains must not come after what a newer one says.
  const submit = createCoalescer<SeenWorker | { id: string; look: true }, boolean>({
    async run(items) {
      const seen = items.filter((item): item is SeenWorker => !('look' in item));
      if (seen.length > 0) told(await seeWorkers(db, seen));
      if (seen.length < items.length)
        told(
          await readDraining(
            db,
            items.map((item) => item.id),
          ),
        );
      return items.map(() => true);
    },
  });
  /** Whether it was written. Nobody is to be told when it was not: it is tried again. */
  const write = (item: Parameters<typeof submit>[0]): Promise<boolean> =>
    submit(item).catch((error) => {
      log.warn({ err: error }, 'could not keep what a worker says of itself, or see whether it drains');
      return false;
    });
  const writeNews = async (entry: Entry, news: SeenWorker): Promise<void> => {
    // Its next take says it again.
    if (!(await write(news))) entry.writing = undefined;
  };

  const flush = async () => {
    const now = performance.now();
    const seen: SeenWorker[] = [];
    for (const [id, entry] of workers) {
      if (entry.seen || entry.open > 0) seen.push({ id, name: null, capacities: null, lanes: null });
      else if (now - entry.seenAt > FORGET_MS) workers.delete(id);
      entry.seen = false;
    }
    await Promise.all(seen.map(write));
  };
  const timer = setInterval(() => void flush(), FLUSH_MS);

  const saw = (entry: Entry) => {
    entry.seenAt = performance.now();
    entry.seen = true;
  };

  return {
    /** A worker begins a take. Gives whether it drains, then and later, and the function to call when the take ends. */
    async begin(says: WorkerSays, lanes: readonly string[]): Promise<{ isDraining(): boolean; end(): void }> {
      const entry = entryOf(says.id);
      const name = says.name ?? entry.name;
      const capacities = says.capacities ? JSON.stringify(says.capacities) : entry.capacities;
      const more = lanes.filter((lane) => !entry.lanes.has(lane));
      if (entry.lanes.size + more.length > MAX_LANES) entry.lanes = new Set(lanes);
      else for (const lane of more) entry.lanes.add(lane);
      const news =
        entry.writing === undefined || name !== entry.name || capacities !== entry.capacities || more.length > 0;
      entry.name = name;
      entry.capacities = capacities;
      saw(entry);
      entry.open++;
      if (news) entry.writing = writeNews(entry, { id: says.id, name, capacities, lanes: [...entry.lanes] });
      // Another take of a worker that is new here waits as well: it may be draining.
      await entry.writing;
      return {
        isDraining: () => entry.draining,
        end() {
          entry.open--;
        },
      };
    },

    /** Workers gave a sign of life in another way. */
    seen(ids: Iterable<string>): void {
      for (const id of ids) saw(entryOf(id));
    },

    /** Some of these workers were told to drain, or to go on. */
    async heard(ids: readonly string[]): Promise<void> {
      await Promise.all(ids.filter((id) => workers.has(id)).map((id) => write({ id, look: true })));
    },

    flush,
    stop: () => clearInterval(timer),
  };
}
export type Workers = ReturnType<typeof createWorkers>;
