import { type Batch, findBatch, readResults } from '../db/batches.ts';
import type { Database } from '../db/open.ts';
import { outlast } from '../db/outlast.ts';

const READ_AT_ONCE = 500;
/** For what other servers have seen to end. */
const LOOK_MS = 1000;

export const ENDED: readonly string[] = ['completed', 'failed', 'expired', 'cancelled'];

export type Tailed = { place: number; line: string } | { batch: Batch };

/** Those in this process who read the lines of batches as these end. */
export function createTails(db: Database, fold: () => Promise<void>) {
  const waiting = new Map<() => void, string>();

  return {
    /** More lines of these batches have ended. */
    wake(ids: ReadonlySet<string>): void {
      for (const [wake, id] of waiting) if (ids.has(id)) wake();
    },

    /** A batch's lines from after a place on, each once, as they end; and at last the batch. Ends early when `signal` aborts. */
    async *tail(id: string, after: number, signal: AbortSignal): AsyncGenerator<Tailed> {
      let place = after;
      let news = true;
      let rouse: (() => void) | undefined;
      const wake = () => {
        news = true;
        rouse?.();
      };
      waiting.set(wake, id);
      signal.addEventListener('abort', wake);
      const timer = setInterval(wake, LOOK_MS);
      try {
        while (!signal.aborted) {
          news = false;
          // Before the lines: what ends after this look is in the next one.
          const batch = (await outlast(() => findBatch(db, id, null), signal)) as Batch;
          await outlast(fold, signal);
          for (let more = true; more && !signal.aborted; ) {
            const page = await outlast(() => readResults(db, id, place, READ_AT_ONCE), signal);
            yield* page.lines;
            ({ next: place, more } = page);
          }
          if (ENDED.includes(batch.status)) {
            yield { batch };
            return;
          }
          await new Promise<void>((resolve) => {
            rouse = resolve;
            if (news) resolve();
          });
        }
      } finally {
        clearInterval(timer);
        waiting.delete(wake);
        signal.removeEventListener('abort', wake);
      }
    },
  };
}
