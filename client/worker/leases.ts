import { type Http, sleep } from '../http.ts';
import { createChanges } from './changes.ts';
import type { TaskAborted } from './executor.ts';
import type { Log } from './log.ts';

const AT_ONCE = 10_000;
/** Leases are extended three times before they end; and this often, so that a server that does not tell at once is asked soon. */
const LONGEST_GAP_MS = 5000;
/** What is over sooner needs no heartbeat. */
const FIRST_MS = 150;
/** After the first news of a while, for what was cancelled with it; and while there is more. */
const SOON_MS = 10;
const OFTEN_MS = 100;
const A_WHILE_MS = 1000;
const AFTER_ERROR_MS = 1000;

type Held = { task_id: string; attempt: number; gone: (why: TaskAborted['why']) => void };

/**
 * Keeps what the worker holds its own, with one heartbeat for all of it, and tells which tasks are its own no more. The heartbeat waits at the server, which
 * answers when something of this worker is cancelled or lost: also what it took meanwhile.
 */
export function createLeases(http: Http, worker: string, leaseSeconds: () => number, log: Log) {
  const held = new Set<Held>();
  const gapMs = () => Math.min((leaseSeconds() * 1000) / 3, LONGEST_GAP_MS);
  const looks = createChanges();
  let waiting = new AbortController();
  let running = false;

  /** Whether something was ours no more. */
  const beat = async (tasks: readonly Held[], wait: number, signal: AbortSignal): Promise<boolean> => {
    const told = await http.json<{ lost: string[]; cancelled: string[] }>('POST', '/v1/queue/heartbeat', {
      body: { tasks: tasks.map(({ task_id, attempt }) => ({ task_id, attempt })), wait, worker: { id: worker } },
      timeoutMs: wait * 1000 + LONGEST_GAP_MS,
      signal,
    });
    const lost = new Set(told.lost);
    const cancelled = new Set(told.cancelled);
    for (const one of tasks) {
      const why = cancelled.has(one.task_id) ? 'cancelled' : lost.has(one.task_id) ? 'lost' : undefined;
      if (why !== undefined && held.delete(one)) one.gone(why);
    }
    // What is cancelled never comes back, so the attempt that was meant is the one that is held.
    for (const one of held) if (cancelled.has(one.task_id) && held.delete(one)) one.gone('cancelled');
    return lost.size + cancelled.size > 0;
  };

  const beatAll = async (signal: AbortSignal): Promise<boolean> => {
    const tasks = [...held];
    let from = 0;
    for (; tasks.length - from > AT_ONCE; from += AT_ONCE) await beat(tasks.slice(from, from + AT_ONCE), 0, signal);
    return beat(tasks.slice(from), gapMs() / 1000, signal);
  };

  const run = async () => {
    running = true;
    await sleep(Math.min(FIRST_MS, gapMs()));
    for (let failed = false; held.size > 0; ) {
      const began = Date.now();
      const { signal } = waiting;
      let pause = OFTEN_MS;
      try {
        // A server that has nothing to tell, and did not wait, is an older one, or stops.
        const isNews = await beatAll(signal);
        const tookMs = Date.now() - began;
        if (!isNews) pause = Math.max(gapMs() - tookMs, 0);
        else if (tookMs > A_WHILE_MS) pause = SOON_MS;
        failed = false;
      } catch (error) {
        if (!signal.aborted) {
          if (!failed) log(`no heartbeat: ${(error as Error).message}`);
          failed = true;
          pause = Math.min(AFTER_ERROR_MS, gapMs());
        }
      }
      if (pause > 0 && held.size > 0) await looks.wait(pause);
    }
    running = false;
  };

  return {
    /** `gone` is called when the task is not ours any more. The returned function lets go of it. */
    hold(task: { task_id: string; attempt: number }, gone: Held['gone']): () => void {
      const one = { task_id: task.task_id, attempt: task.attempt, gone };
      held.add(one);
      if (!running) void run();
      return () => {
        held.delete(one);
      };
    },
    /** Looks at once, because something points to a task that is lost. */
    check(): void {
      waiting.abort();
      waiting = new AbortController();
      looks.happened();
    },
    stop(): void {
      held.clear();
      waiting.abort();
      looks.happened();
    },
  };
}
export type Leases = ReturnType<typeof createLeases>;
