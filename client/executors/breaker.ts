/** Different tasks in a row: one that fails wherever it goes must not close a server to others. */
const FAILURES = 5;
const FIRST_PAUSE_MS = 1000;

type BreakerState = 'closed' | 'open' | 'half-open';

/** One call through a breaker, to be ended once. */
type Trial = {
  /** Whether it is the call that decides whether the breaker closes. */
  readonly isProbe: boolean;
  /** `unknown` says nothing of the server. */
  end(went: 'well' | 'badly' | 'unknown'): void;
};

export type Breaker = {
  readonly state: BreakerState;
  /** Whether a call may be made. */
  readonly admits: boolean;
  begin(taskId: string): Trial;
  /** Without waiting for failures. */
  open(why: string): void;
  stop(): void;
};

export type BreakerOptions = {
  /** Whether the server answers again; rejects when it does not. Without it, time alone lets a call through. */
  look: (() => Promise<void>) | undefined;
  /** Between looks: 1 second at first, doubled up to this while they fail. */
  longestPauseMs: number;
  onState(state: BreakerState, why: string): void;
};

/**
 * A circuit breaker (Nygard, Release It!, 2007; Fowler, CircuitBreaker, 2014): failures in a row open it, and nothing is sent to the server until it
 * answers a look again. Then one call at a time goes through, until one goes well.
 */
export function createBreaker({ look, longestPauseMs, onState }: BreakerOptions): Breaker {
  let state: BreakerState = 'closed';
  /** Calls that began before a change of state say nothing of what is now. */
  let epoch = 0;
  const failures = new Set<string>();
  let probing = false;
  let pauseMs = 0;
  let lookFailed = false;
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;

  const become = (next: BreakerState, why: string) => {
    state = next;
    epoch++;
    failures.clear();
    probing = false;
    onState(next, why);
  };
  const lookLater = () => {
    // A server that answers looks and no calls is called once a second: what fails there may be the tasks, and the next one may not.
    const slower = look === undefined || lookFailed;
    pauseMs = Math.min(pauseMs === 0 || !slower ? FIRST_PAUSE_MS : pauseMs * 2, longestPauseMs);
    timer = setTimeout(async () => {
      try {
        await look?.();
        lookFailed = false;
        if (!stopped) become('half-open', 'it answers');
      } catch {
        lookFailed = true;
        if (!stopped) lookLater();
      }
    }, pauseMs);
    timer.unref();
  };
  const open = (why: string) => {
    if (state === 'open') return;
    become('open', why);
    lookLater();
  };

  return {
    get state() {
      return state;
    },
    get admits() {
      return state === 'closed' || (state === 'half-open' && !probing);
    },
    open,
    begin(taskId) {
      const began = epoch;
      const isProbe = state === 'half-open';
      if (isProbe) probing = true;
      return {
        isProbe,
        end(went) {
          if (began !== epoch) return;
          if (isProbe) probing = false;
          if (went === 'badly') failures.add(taskId);
          if (went === 'badly' && (isProbe || failures.size >= FAILURES)) {
            open(isProbe ? 'the first call failed' : `${FAILURES} tasks in a row failed`);
          } else if (went === 'well') {
            failures.clear();
            pauseMs = 0;
            if (isProbe) become('closed', 'a call went well');
          }
        },
      };
    },
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}
