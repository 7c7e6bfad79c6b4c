import { createAdaptiveLimit } from './adaptive-limit.ts';

/** A number, or `auto`: found by how the work goes, between 1 and 1,000 or as given. */
export type Concurrency = number | 'auto' | { min?: number; max?: number; initial?: number };

/**
 * How a piece of work ended: `done` (an answer, whatever it says), `refused` (overloaded: a 429 or 503; nothing was done), `failed` (it broke),
 * or `ignored` (cancelled; says nothing of the server).
 */
export type Outcome = 'done' | 'refused' | 'failed' | 'ignored';

/** Where work was refused, its place rests, so that a place too many does not ask on and on. */
const REST_MS = 100;

/** How many pieces of work may run at once. */
export type Limit = {
  /** An integer, at least 1. */
  readonly limit: number;
  readonly inFlight: number;
  /**
   * Counts a piece of work as running until the returned function is called, once, with its outcome. Work of one `kind` takes about as long as other work
   * of it.
   */
  begin(kind?: string): (outcome: Outcome) => void;
  /** Says that work takes all the room that it may use, which may be less than the limit. Only then is a limit found. */
  filled(): void;
  /** What the engine says of its load; only a limit that is found has use for it. */
  hint?(load: EngineLoad): void;
};

/** What an engine says of itself, as far as it does. */
export type EngineLoad = {
  /** How many requests wait in it. */
  waiting?: number | undefined;
  /** How many it works on at once. */
  places?: number | undefined;
};

/** `onFree`: more work may begin, without the end of any. Throws RangeError for what is no concurrency. */
export function createLimit(concurrency: Concurrency, onFree: () => void = () => undefined): Limit {
  if (typeof concurrency === 'number') return fixed(positive(concurrency, 'concurrency'), onFree);
  const { min = 1, max = 1000, initial } = concurrency === 'auto' ? {} : concurrency;
  positive(min, 'concurrency.min');
  if (positive(max, 'concurrency.max') < min) throw new RangeError('concurrency.max: must not be below min');
  const first = positive(initial ?? Math.min(Math.max(8, min), max), 'concurrency.initial');
  return createAdaptiveLimit({ min, max, initial: Math.min(Math.max(first, min), max), onFree });
}

function fixed(limit: number, onFree: () => void): Limit {
  let inFlight = 0;
  return {
    limit,
    get inFlight() {
      return inFlight;
    },
    begin() {
      inFlight++;
      const end = () => {
        inFlight--;
      };
      return (outcome) => {
        if (outcome !== 'refused') return end();
        setTimeout(() => {
          end();
          onFree();
        }, REST_MS);
      };
    },
    filled: () => undefined,
  };
}

function positive(value: number, name: string): number {
  if (Number.isInteger(value) && value >= 1) return value;
  throw new RangeError(`${name}: ${value} is not an integer from 1 on`);
}
