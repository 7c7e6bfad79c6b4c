import type { UpstreamReport } from '../worker/executor.ts';
import type { Log } from '../worker/log.ts';
import type { NotAnswered } from './reply.ts';

/** One task that fails says little of its server. */
const FAILING_TASKS = 2;
/** How often refusals and failures are told, each in one line. */
const SUM_MS = 10_000;

type State = UpstreamReport['state'];

/** What the calls of an upstream say of it, for those who look; and its refusals and failures in the log, in sum. */
export function createHealth(host: string, log: Log) {
  let state: State = 'healthy';
  let since = Date.now();
  let last: NotAnswered | undefined;
  const failed = new Set<string>();
  const sums = { refused: createSum(log), failed: createSum(log) };

  const become = (next: State) => {
    if (next === state) return;
    state = next;
    since = Date.now();
  };

  return {
    /** A call went well, or a look where that is all that is known. */
    well(): void {
      failed.clear();
      last = undefined;
      become('healthy');
    },
    /** A call was refused, or it failed. */
    badly(taskId: string, error: NotAnswered): void {
      last = error;
      sums[error.outcome].add((count) => `${host} ${error.outcome} ${count}: ${error.message}`);
      if (error.outcome === 'failed' && failed.size < FAILING_TASKS) failed.add(taskId);
      if (state === 'away') return;
      if (failed.size >= FAILING_TASKS) become('failing');
      else if (error.outcome === 'refused' && state === 'healthy') become('refusing');
    },
    /** It is not used for now. */
    out(cause: 'away' | 'failing'): void {
      become(cause);
    },
    /** The last refusal or failure since anything went well. */
    get last(): NotAnswered | undefined {
      return last;
    },
    get report(): Pick<UpstreamReport, 'state' | 'since' | 'status' | 'message'> {
      if (state === 'healthy' || last === undefined) return { state, since };
      return { state, since, status: last.answer.status_code, message: last.message.slice(0, 512) };
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
    log(say(`${count} calls in ${SUM_MS / 1000} s, the last`));
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
