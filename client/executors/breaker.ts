/** Different tasks in a row: one that fails wherever it goes must not close a server to others. */
const FAILURES = 5;
/** The same where another task went well lately: what fails then is mostly the tasks' own fault. */
const FAILURES_BESIDE_SUCCESS = 20;
const LATELY_MS = 30_000;
const FIRST_LOOK_MS = 100;
const LOOK_MS = 1000;
/** Before a probe, after failures: doubled with every probe that fails. */
const FIRST_PAUSE_MS = 250;
/** A probe that says nothing for so long may only take its time: another call joins it. */
const NEXT_PROBE_MS = 1000;

type BreakerState = 'closed' | 'open' | 'half-open';

/** How a call ended. `away`: there was no connection. `unknown` says nothing of the server. */
export type Went = 'well' | 'badly' | 'away' | 'unknown';

/** One call through a breaker, to be ended once. */
type Trial = {
  /** Whether it is a call that decides whether the breaker closes. */
  readonly isProbe: boolean;
  end(went: Went): void;
};

export type Breaker = {
  readonly state: BreakerState;
  /** Why it is not closed: there was no connection, or calls failed. */
  readonly cause: 'away' | 'failing';
  /** Whether a call may be made. */
  readonly admits: boolean;
  begin(taskId: string): Trial;
  /** Without waiting for failures. */
  open(why: string): void;
  /** Resolves when it is known whether the server still answers looks; opens where it does not. */
  suspect(): Promise<void>;
  stop(): void;
};

export type BreakerOptions = {
  /** Whether the server answers again; rejects when it does not. Without it, time alone lets a call through. */
  look: (() => Promise<void>) | undefined;
  /** The longest pause before a probe, where probes go on failing. */
  longestPauseMs: number;
  onState(state: BreakerState, why: string): void;
  /** One more call may be made, in the same state. */
  onAdmits(): void;
};

/**
 * A circuit breaker (Nygard, Release It!, 2007; Fowler, CircuitBreaker, 2014). A connection that fails opens it, and so do failures in a row while nothing
 * goes well. Nothing is sent to the server then until it answers a look again. From then on single calls go through, until one goes well.
 */
export function createBreaker({ look, longestPauseMs, onState, onAdmits }: BreakerOptions): Breaker {
  let state: BreakerState = 'closed';
  let cause: Breaker['cause'] = 'away';
  /** Calls that began before a change of state say nothing of what is now. */
  let epoch = 0;
  const failures = new Set<string>();
  let wellAt = Number.NEGATIVE_INFINITY;
  let probes = 0;
  /** The last probe has taken its time. */
  let mayJoin = false;
  let pauseMs = 0;
  let timer: NodeJS.Timeout | undefined;
  let suspecting: Promise<void> | undefined;
  let stopped = false;

  const wentWellLately = () => performance.now() - wellAt < LATELY_MS;
  const later = (then: () => void, ms: number) => {
    clearTimeout(timer);
    if (stopped) return;
    timer = setTimeout(then, ms);
    timer.unref();
  };
  const become = (next: BreakerState, why: string) => {
    clearTimeout(timer);
    state = next;
    epoch++;
    failures.clear();
    probes = 0;
    mayJoin = false;
    onState(next, why);
  };

  /** Looks once a second, whether or not the look before has come back. */
  const lookNow = () => {
    const mine = epoch;
    later(lookNow, Math.min(LOOK_MS, longestPauseMs));
    if (look === undefined) return become('half-open', 'it may work again');
    look().then(
      () => {
        if (mine === epoch && !stopped) become('half-open', 'it answers');
      },
      () => undefined,
    );
  };
  const open = (why: string, because: Breaker['cause'] = 'away') => {
    if (state === 'open' || stopped) return;
    cause = because;
    become('open', why);
    if (because === 'failing') {
      const longest = wentWellLately() ? Math.min(LOOK_MS, longestPauseMs) : longestPauseMs;
      pauseMs = Math.min(pauseMs === 0 ? FIRST_PAUSE_MS : pauseMs * 2, longest);
      later(lookNow, pauseMs);
    } else later(lookNow, Math.min(look === undefined ? LOOK_MS : FIRST_LOOK_MS, longestPauseMs));
  };

  return {
    get state() {
      return state;
    },
    get cause() {
      return cause;
    },
    get admits() {
      if (state === 'half-open') return probes === 0 || mayJoin;
      return state === 'closed';
    },
    open,
    suspect() {
      if (look === undefined || state !== 'closed') return Promise.resolve();
      suspecting ??= look()
        .catch((error) => open(error.message))
        .finally(() => {
          suspecting = undefined;
        });
      return suspecting;
    },
    begin(taskId) {
      const began = epoch;
      const isProbe = state === 'half-open';
      if (isProbe) {
        probes++;
        mayJoin = false;
        later(() => {
          mayJoin = true;
          onAdmits();
        }, NEXT_PROBE_MS);
      }
      return {
        isProbe,
        end(went) {
          if (went === 'well') wellAt = performance.now();
          if (began !== epoch) return;
          if (isProbe) probes--;
          if (went === 'well') {
            failures.clear();
            pauseMs = 0;
            if (isProbe) become('closed', 'a call went well');
          } else if (went === 'away') open('there is no connection');
          else if (went === 'badly') {
            failures.add(taskId);
            if (isProbe) open('the first call failed', 'failing');
            else if (failures.size >= (wentWellLately() ? FAILURES_BESIDE_SUCCESS : FAILURES))
              open(`${failures.size} tasks in a row failed`, 'failing');
          } else if (isProbe) onAdmits();
        },
      };
    },
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}
