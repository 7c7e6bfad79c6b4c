import { setTimeout as sleep } from 'node:timers/promises';
import { isPassing } from './errors.ts';

const AGAIN_MS = 500;

/** Calls again while the database is away for a moment, until `signal` aborts. Throws what is not passing. */
export async function outlast<Result>(call: () => Promise<Result>, signal?: AbortSignal): Promise<Result> {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!isPassing(error) || signal?.aborted) throw error;
      await sleep(AGAIN_MS, undefined, signal && { signal }).catch(() => undefined);
    }
  }
}
