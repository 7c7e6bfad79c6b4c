/** An attempt that ended without its worker's doing. */
export type Gone = { worker: string | null; taskId: string; id: string; attempt: number };

type Holder = { news: Gone[]; lookAgain: boolean; wake: (() => void) | undefined };

/**
 * Heartbeats that wait to hear which of their workers' attempts are over: those of their tasks, and all of their worker, whom they name. News comes from the
 * database, whoever ended an attempt there, and on whichever server.
 */
export function createHolders() {
  const byKey = new Map<string, Set<Holder>>();
  const ofWorker = (worker: string) => `worker ${worker}`;
  const rouse = (holder: Holder) => holder.wake?.();

  return {
    /** Joins before its tasks are looked at, so that what ends between the look and the wait is not missed. */
    join(worker: string | null, ids: readonly string[]) {
      const holder: Holder = { news: [], lookAgain: false, wake: undefined };
      const keys = worker === null ? ids : [...ids, ofWorker(worker)];
      for (const key of keys) {
        const there = byKey.get(key);
        if (there) there.add(holder);
        else byKey.set(key, new Set([holder]));
      }
      return {
        /** The news since it last asked; all must be looked at again where news may have been lost. */
        heard(): { gone: Gone[]; lookAgain: boolean } {
          const { news: gone, lookAgain } = holder;
          holder.news = [];
          holder.lookAgain = false;
          return { gone, lookAgain };
        },
        /** Until there is news, `ms` have passed, somebody calls `wakeAll`, or `signal` aborts. */
        sleep(ms: number, signal: AbortSignal): Promise<void> {
          if (holder.news.length > 0 || holder.lookAgain || signal.aborted) return Promise.resolve();
          return new Promise((resolve) => {
            const done = () => {
              holder.wake = undefined;
              clearTimeout(timer);
              signal.removeEventListener('abort', done);
              resolve();
            };
            const timer = setTimeout(done, ms);
            holder.wake = done;
            signal.addEventListener('abort', done);
          });
        },
        leave(): void {
          for (const key of keys) {
            const there = byKey.get(key);
            there?.delete(holder);
            if (there?.size === 0) byKey.delete(key);
          }
        },
      };
    },

    gone(attempts: readonly Gone[]): void {
      for (const one of attempts) {
        const ofTask = byKey.get(one.id) ?? [];
        const ofItsWorker = (one.worker !== null && byKey.get(ofWorker(one.worker))) || [];
        for (const holder of new Set([...ofTask, ...ofItsWorker])) {
          holder.news.push(one);
          rouse(holder);
        }
      }
    },

    /** News may have been lost, or the server is about to stop. */
    wakeAll(): void {
      for (const there of byKey.values())
        for (const holder of there) {
          holder.lookAgain = true;
          rouse(holder);
        }
    },
  };
}
export type Holders = ReturnType<typeof createHolders>;
