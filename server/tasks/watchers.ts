import type { Logger } from 'pino';
import type { StoredEvent } from '../db/events.ts';
import type { Database } from '../db/open.ts';
import { type Ending, readEndings } from '../db/read-tasks.ts';

export type Answered = Pick<Ending, 'outcome' | 'status_code' | 'body'> & Partial<Pick<Ending, 'headers'>>;

export type Watcher = {
  ended(how: Answered): void;
  /** There are more events; given where they were emitted in this process, otherwise look. */
  progressed(event?: StoredEvent): void;
};

const LOOK_MS = 1000;
const LOOK_AT_ONCE = 2000;

/**
 * Who in this process waits for a task: for its end, or for its events. News comes from this process's own calls and
 * from other servers; as news can be lost, all watched tasks are looked up in turn as well, up to 2,000 a second.
 */
export function createWatchers(db: Database, log: Logger) {
  const watched = new Map<string, Set<Watcher>>();
  let turn: MapIterator<string> | undefined;

  const tell = (id: string, how: Answered) => {
    const there = watched.get(id);
    if (!there) return;
    watched.delete(id);
    for (const watcher of there) watcher.ended(how);
  };

  const look = async (ids: readonly string[]) => {
    try {
      for (const ending of await readEndings(db, ids)) tell(ending.id, ending);
      return true;
    } catch (error) {
      log.warn({ err: error }, 'could not look up how tasks ended');
      return false;
    }
  };

  const timer = setInterval(async () => {
    if (watched.size === 0) return;
    const ids: string[] = [];
    while (ids.length < Math.min(LOOK_AT_ONCE, watched.size)) {
      turn ??= watched.keys();
      const next = turn.next();
      if (next.done) turn = undefined;
      else ids.push(next.value);
      if (next.done && ids.length > 0) break;
    }
    await look(ids);
    for (const id of ids) for (const watcher of watched.get(id) ?? []) watcher.progressed();
  }, LOOK_MS);

  return {
    watch(id: string, watcher: Watcher): () => void {
      const there = watched.get(id);
      if (there) there.add(watcher);
      else watched.set(id, new Set([watcher]));
      return () => {
        const left = watched.get(id);
        left?.delete(watcher);
        if (left?.size === 0) watched.delete(id);
      };
    },

    /** This process ended the task, or another one has answered it. */
    ended: tell,

    /** This process stored an event. */
    progressed(event: StoredEvent): void {
      for (const watcher of watched.get(event.id) ?? []) watcher.progressed(event);
    },

    /** Another server says that tasks ended, or have events. */
    async heard(ended: readonly string[], progressed: readonly string[]): Promise<void> {
      for (const id of progressed) for (const watcher of watched.get(id) ?? []) watcher.progressed();
      const mine = ended.filter((id) => watched.has(id));
      if (mine.length > 0) await look(mine);
    },

    /** News may have been lost: looks up everything. */
    async lookAtAll(): Promise<void> {
      const ids = [...watched.keys()];
      for (let from = 0; from < ids.length; from += LOOK_AT_ONCE) await look(ids.slice(from, from + LOOK_AT_ONCE));
      for (const there of watched.values()) for (const watcher of there) watcher.progressed();
    },

    stop: () => clearInterval(timer),
  };
}
export type Watchers = ReturnType<typeof createWatchers>;
