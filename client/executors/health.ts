import type { UpstreamReport } from '../types.ts';
import type { Log } from '../worker/log.ts';
import type { NotAnswered } from './reply.ts';

/** One task that fails says little of its server. */
const FAILING_TASKS = 2;
/** A refusal among answers is no state. */
const SETTLED_MS = 1000;
/** How often refusals and failures are told, each in one line. */
const SUM_MS = 10_000;
const LONGEST_MESSAGE = 512;

/** What the calls of an upstream say of it, for those who look; and its refusals and failures in the log, in sum. */
export function createHealth(host: string, log: Log) {
  let wellSince = Date.now();
  /** Since when nothing went well. */
  let badSince: number | undefined;
  let last: NotAnswered | undefined;
  let out: { state: 'away' | 'failing'; since: number } | undefined;
  const failed = new Set<string>();
  const sums = { refused: createSum(log), failed: createSum(log) };

  const stateNow = (): Pick<UpstreamReport, 'state' | 'since'> => {
    if (out !== undefined) return out;
    if (badSince !== undefined && Date.now() - badSince >= SETTLED_MS) {
      if (failed.size >= FAILING_TASKS) return { state: 'failing', since: badSince };
      if (last?.outcome === 'refused') return { state: 'refusing', since: badSince };
    }
    return { state: 'healthy', since: wellSince };
  };

  return {
    /** A call went well. */
    well(): void {
      if (badSince !== undefined) wellSince = Date.now();
      failed.clear();
      badSince = last = out = undefined;
    },
    /** A call was refused, or it failed. */
    badly(taskId: string, error: NotAnswered): void {
      last = error;
      badSince ??= Date.now();
      if (error.outcome === 'failed' && failed.size < FAILING_TASKS) failed.add(taskId);
      sums[error.outcome].add((count) => `${host} ${error.outcome} ${count}: ${error.message}`);
    },
    /** It is not used for now. */
    out(state: 'away' | 'failing'): void {
      if (out?.state !== state) out = { state, since: Date.now() };
    },
    /** The last refusal or failure, while nothing has gone well since. */
    get last(): NotAnswered | undefined {
      return last;
    },
    get report(): Pick<UpstreamReport, 'state' | 'since' | 'status' | 'message'> {
      const now = stateNow();
      if (now.state === 'healthy' || last === undefined) return now;
      return { ...now, status: last.answer.status_code, message: last.message.slice(0, LONGEST_MESSAGE) };
    },
    stop(): void {
      for (const sum of Object.values(sums)) sum.stop();
    },
  };
}

/** Tells the first at once, and how many came afterwards every ten seconds. */
function createSum(log: Log) {
  let timer: NodeJS.Timeout | undefined;
  let count = 0;
  let say: (count: string) => string = () => '';

  const tell = () => {
    timer = undefined;
    if (count === 0) return;
    log(say(count === 1 ? 'one more call' : `${count} more calls, the last`));
    start();
  };
  const start = () => {
    count = 0;
    timer = setTimeout(tell, SUM_MS);
    timer.unref();
  };

  return {
    add(line: (count: string) => string): void {
      say = line;
      count++;
      if (timer !== undefined) return;
      log(line('a call'));
      start();
    },
    stop: () => clearTimeout(timer),
  };
}
