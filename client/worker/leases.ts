import type { Http } from '../http.ts';
import { createChanges } from './changes.ts';
import type { TaskAborted } from './executor.ts';
import type { Log } from './log.ts';

const AT_ONCE = 10_000;
/** Leases are extended three times before they end; and this often, so that a cancel is heard of soon. */
const LONGEST_GAP_MS = 5000;
const AFTER_ERROR_MS = 1000;

type Held = { task_id: string; attempt: number; gone: (why: TaskAborted['why']) => void };

/** Keeps what the worker holds its own, with one heartbeat for all of it, and tells which tasks are its own no more. */
export function createLeases(http: Http, leaseSeconds: number, log: Log) {
  const held = new Set<Held>();
  const gap = Math.min((leaseSeconds * 1000) / 3, LONGEST_GAP_MS);
  const looks = createChanges();
  let running = false;

  const beat = async (): Promise<void> => {
    const tasks = [...held];
    for (let from = 0; from < tasks.length; from += AT_ONCE) {
      const some = tasks.slice(from, from + AT_ONCE);
      const told = await http.json<{ lost: string[]; cancelled: string[] }>('POST', '/v1/queue/heartbeat', {
        body: { tasks: some.map(({ task_id, attempt }) => ({ task_id, attempt })), lease_seconds: leaseSeconds },
        timeoutMs: Math.max(gap, LONGEST_GAP_MS),
      });
      const lost = new Set(told.lost);
      const cancelled = new Set(told.cancelled);
      for (const one of some) {
        const why = cancelled.has(one.task_id) ? 'cancelled' : lost.has(one.task_id) ? 'lost' : undefined;
        if (why !== undefined && held.delete(one)) one.gone(why);
      }
    }
  };

  const run = async () => {
    running = true;
    for (let pause = gap; held.size > 0; ) {
      await looks.wait(pause);
      if (held.size === 0) break;
      const error = await beat().then(
        () => undefined,
        (failed: Error) => failed,
      );
      if (error && pause === gap) log(`no heartbeat: ${error.message}`);
      pause = error ? Math.min(AFTER_ERROR_MS, gap) : gap;
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
    check: () => looks.happened(),
    stop(): void {
      held.clear();
      looks.happened();
    },
  };
}
export type Leases = ReturnType<typeof createLeases>;
