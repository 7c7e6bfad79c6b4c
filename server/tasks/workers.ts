import type { Logger } from 'pino';
import { createCoalescer } from '../db/coalesce.ts';
import type { Database } from '../db/open.ts';
import { readDraining, type SeenWorker, seeWorkers } from '../db/workers.ts';
import type { Upstream, WorkerSays } from '../protocol/workers.ts';

const FLUSH_MS = 5000;
/** A worker whose upstreams change their states more often than this is written with the others. */
const AT_ONCE_MS = 1000;
/** A worker that has not been seen for so long is new when it comes back. */
const FORGET_MS = 600_000;
const MAX_LANES = 1000;

type Entry = {
  name: string | null;
  capacities: string | null;
  host: string | null;
  lanes: Set<string>;
  /** As it last said. */
  upstreams: string | null;
  /** Which of them are in which state: what is news at once. */
  states: string;
  /** What it said of them since is to be written with its next sign of life. */
  unwritten: boolean;
  /** When its upstreams were last written at once. */
  toldAt: number;
  stopping: boolean;
  seenAt: number;
  seen: boolean;
  /** Its last take since the last sign of life was written. */
  askedAt: number | undefined;
  open: number;
  /** The last write of what it says. */
  writing: Promise<void> | undefined;
  draining: boolean;
  /** Who had its name on its host before is over. */
  greeted: boolean;
};

const NOTHING: Omit<SeenWorker, 'id'> = {
  name: null,
  capacities: null,
  lanes: null,
  host: null,
  upstreams: null,
  stopping: null,
  askedAgo: null,
};

/**
 * Who takes tasks here. What a worker says of itself is written when it is news; that it was seen, and how busy its upstreams are, for all of
 * them together every five seconds, which also tells who is draining, should the message have been lost.
 */
export function createWorkers(db: Database, log: Logger, onDrain: () => void, onHello: (id: string) => void) {
  const workers = new Map<string, Entry>();

  const entryOf = (id: string): Entry => {
    const there = workers.get(id);
    if (there) return there;
    const entry: Entry = {
      name: null,
      capacities: null,
      host: null,
      lanes: new Set(),
      upstreams: null,
      states: '',
      unwritten: false,
      toldAt: Number.NEGATIVE_INFINITY,
      stopping: false,
      seenAt: 0,
      seen: false,
      askedAt: undefined,
      open: 0,
      writing: undefined,
      draining: false,
      greeted: false,
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
      if (seen.length > 0) told(await seeWorkers(db, merged(seen)));
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
  const writeNews = async (id: string, entry: Entry, asks: boolean): Promise<void> => {
    const { name, capacities, host, upstreams } = entry;
    const lanes = [...entry.lanes];
    entry.unwritten = false;
    const stopping = entry.stopping || null;
    // Its next take says it again.
    if (!(await write({ id, name, capacities, lanes, host, upstreams, stopping, askedAgo: asks ? 0 : null })))
      entry.writing = undefined;
    else if (!entry.greeted && name && host) {
      entry.greeted = true;
      onHello(id);
    }
  };

  const flush = async () => {
    const now = performance.now();
    const seen: Promise<void>[] = [];
    for (const [id, entry] of workers) {
      if (entry.seen || entry.open > 0) seen.push(writeSeen(id, entry));
      else if (now - entry.seenAt > FORGET_MS) workers.delete(id);
      entry.seen = false;
    }
    await Promise.all(seen);
  };
  const writeSeen = async (id: string, entry: Entry): Promise<void> => {
    const { unwritten, upstreams, askedAt } = entry;
    entry.unwritten = false;
    entry.askedAt = undefined;
    const askedAgo = askedAt === undefined ? null : (performance.now() - askedAt) / 1000;
    const isKept = await write({ ...NOTHING, id, upstreams: unwritten ? upstreams : null, askedAgo });
    if (!isKept && unwritten) entry.unwritten = true;
  };
  const timer = setInterval(() => void flush(), FLUSH_MS);

  const saw = (entry: Entry) => {
    entry.seenAt = performance.now();
    entry.seen = true;
  };

  /** Resolves when what is news is written. */
  const hear = async (entry: Entry, says: WorkerSays, lanes: readonly string[], asks: boolean): Promise<void> => {
    const name = says.name ?? entry.name;
    const capacities = says.capacities ? JSON.stringify(says.capacities) : entry.capacities;
    const host = says.host ?? entry.host;
    const stopping = says.stopping === true || (entry.stopping && !asks);
    const more = lanes.filter((lane) => !entry.lanes.has(lane));
    if (entry.lanes.size + more.length > MAX_LANES) entry.lanes = new Set(lanes);
    else for (const lane of more) entry.lanes.add(lane);
    const isNew =
      entry.writing === undefined ||
      name !== entry.name ||
      capacities !== entry.capacities ||
      host !== entry.host ||
      stopping !== entry.stopping ||
      more.length > 0;
    const upstreams = says.upstreams ? JSON.stringify(says.upstreams) : entry.upstreams;
    const states = says.upstreams ? statesOf(says.upstreams) : entry.states;
    const hasTurned = states !== entry.states && performance.now() - entry.toldAt >= AT_ONCE_MS;
    entry.unwritten ||= upstreams !== entry.upstreams;
    Object.assign(entry, { name, capacities, host, stopping, upstreams, states });
    saw(entry);
    if (asks) entry.askedAt = entry.seenAt;
    if (isNew) entry.writing = writeNews(says.id, entry, asks);
    else if (hasTurned) {
      entry.toldAt = entry.seenAt;
      // A take need not wait for that.
      void writeNews(says.id, entry, asks);
    }
    // Another take of a worker that is new here waits as well: it may be draining.
    await entry.writing;
  };

  return {
    /** A worker begins a take. Gives whether it drains, then and later, and the function to call when the take ends. */
    async begin(says: WorkerSays, lanes: readonly string[]): Promise<{ isDraining(): boolean; end(): void }> {
      const entry = entryOf(says.id);
      entry.open++;
      await hear(entry, says, lanes, says.stopping !== true);
      return {
        isDraining: () => entry.draining || entry.stopping,
        end() {
          entry.open--;
        },
      };
    },

    /** What a worker says of itself beside its takes. */
    says: (says: WorkerSays): Promise<void> => hear(entryOf(says.id), says, [], false),

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

const statesOf = (upstreams: readonly Upstream[]): string =>
  upstreams.map(({ url, state, queues }) => `${state} ${url} ${queues ?? ''}`).join('\n');

/** One for each worker: of what several say of it, the last holds. */
function merged(seen: readonly SeenWorker[]): SeenWorker[] {
  const all = new Map<string, SeenWorker>();
  for (const one of seen) {
    const before = all.get(one.id);
    const told = Object.entries(one).filter(([, value]) => value !== null);
    all.set(one.id, before ? { ...before, ...Object.fromEntries(told) } : one);
  }
  return [...all.values()];
}
