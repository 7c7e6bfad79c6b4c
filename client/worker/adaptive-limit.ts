import type { Limit, Outcome } from './limit.ts';

/** What more work at a time must bring to be kept: this part of what it would bring if nothing stood in its way. */
const WORTH = 0.4;
const WORTH_AT_FIRST = 0.25;
/** More refusals and failures than this, beyond the usual, are a flood. */
const FLOOD = 0.6;
/** How often a level is measured before the next one is tried: doubled by every try that brings nothing. */
const FEWEST_HOLDS = 1;
const MOST_HOLDS = 8;
/** Below this share of the limit in use, work was what was missing, and nothing can be learned. */
const IN_USE = 0.7;
const LEAST_IN_WINDOW = 24;
/** A place whose work was refused rests for a part of what an answer takes, so that a place too many does not ask on and on. */
const REST = 0.5;
const LONGEST_REST_MS = 1000;
const FIRST_REST_MS = 100;

/** `rate`: answers a millisecond. `broken`: the share of work that was refused or failed. */
type Level = { limit: number; rate: number; broken: number };

/**
 * A limit that finds the concurrency from which on more brings nothing: hill climbing on the rate of answers. It doubles while that pays (slow start), then
 * tries steps of its square root upwards and, in turn, of a tenth downwards, and goes back from what did not pay. Refusals alone are no reason to go back,
 * since a server may refuse by chance or by a limit of its own a minute; where they go with more work at a time, the rate of answers shows it. A flood of
 * them sends it back to the last level that paid at once, or a fifth down.
 *
 * The rate, and not latency, decides because a server that batches (vLLM, SGLang) slows every answer down with each it takes on and still gives more.
 * Sources: Chiu and Jain, Analysis of the Increase and Decrease Algorithms for Congestion Avoidance (1989); Cardwell et al., BBR: Congestion-Based Congestion
 * Control (2016), for the rate of delivery in place of losses; Hellerstein et al., Optimizing Concurrency Levels in the .NET ThreadPool (2009), for the hill.
 */
export function createAdaptiveLimit(options: {
  min: number;
  max: number;
  initial: number;
  /** Milliseconds. */
  now?: () => number;
  later?: (then: () => void, ms: number) => unknown;
  /** A place whose work was refused has rested. */
  onFree?: () => void;
}): Limit {
  const { min, max, now = () => performance.now(), later = setTimeout, onFree = () => undefined } = options;
  let limit = options.initial;
  let inFlight = 0;
  /** Milliseconds that an answer takes, about. */
  let latency: number | undefined;

  /** Work that began under another limit, and has not ended. What it brings is not counted. */
  let older = 0;
  let generation = 0;
  // What was measured in this window.
  let began = now();
  let changedAt = began;
  let used = 0;
  let done = 0;
  let broken = 0;

  let starting = true;
  let level: Level | undefined;
  let holds = 0;
  let holdFor = FEWEST_HOLDS;
  let upwards = true;
  /** Steps up in a row that paid: each is longer than the one before. */
  let streak = 0;
  let doubts = 0;

  const restart = () => {
    began = now();
    changedAt = began;
    used = done = broken = 0;
  };
  const count = (by: number) => {
    const at = now();
    used += inFlight * (at - changedAt);
    changedAt = at;
    inFlight += by;
  };
  const go = (to: number) => {
    limit = Math.min(Math.max(to, min), max);
    generation++;
    older = inFlight;
    restart();
  };

  /** Looks at a window, and says where to go. */
  const judge = () => {
    const time = now() - began;
    const rate = done / time;
    const share = broken / (done + broken);
    if (share > FLOOD + (level?.broken ?? 0) / 2) {
      starting = false;
      holds = 0;
      const back = level !== undefined && level.limit < limit ? level.limit : limit * 0.8;
      level = undefined;
      return go(back);
    }
    if (used / time < IN_USE * Math.floor(limit)) return restart();

    if (level === undefined || level.limit === limit) {
      // Measured again, it is known better.
      const before = level ?? { rate, broken: share };
      level = { limit, rate: (before.rate + rate) / 2, broken: (before.broken + share) / 2 };
      if (!starting && ++holds < holdFor) return restart();
      holds = 0;
      if (limit >= max) upwards = false;
      else if (limit <= min) upwards = true;
      if (starting) return go(limit * 2);
      return go(upwards ? limit + Math.max(1, Math.sqrt(limit)) : limit - Math.max(1, limit / 10));
    }

    // Upwards it must bring its worth, and pay for what is refused besides; downwards it may cost no more than that.
    const grown = limit / level.limit - 1;
    const pays = rate / level.rate - 1 >= (starting ? WORTH_AT_FIRST : WORTH) * grown + share - level.broken;
    if (pays) {
      level = { limit, rate, broken: share };
      holdFor = FEWEST_HOLDS;
      doubts = 0;
      if (starting && limit < max) return go(limit * 2);
      if (!upwards || limit >= max) return restart();
      streak++;
      return go(limit + Math.min(limit / 2, 2 ** streak * Math.max(1, Math.sqrt(limit))));
    }
    // One window may be chance.
    if (upwards && doubts++ === 0 && share < FLOOD / 2 + level.broken) return restart();
    doubts = 0;
    streak = 0;
    starting = false;
    holds = 0;
    holdFor = Math.min(holdFor * 2, MOST_HOLDS);
    upwards = !upwards;
    go(level.limit);
  };

  const end = (mine: number, took: number, outcome: Outcome) => {
    count(-1);
    if (outcome === 'done') latency = latency === undefined ? took : latency + (took - latency) / 16;
    if (mine !== generation) {
      if (--older === 0) restart();
      return;
    }
    if (older > 0 || outcome === 'ignored') return;
    if (outcome === 'done') done++;
    else broken++;
    if (done + broken >= Math.max(LEAST_IN_WINDOW, Math.floor(limit) * 2)) judge();
  };

  return {
    get limit() {
      return Math.max(1, Math.floor(limit));
    },
    get inFlight() {
      return inFlight;
    },
    begin() {
      count(1);
      const mine = generation;
      const at = now();
      return (outcome: Outcome) => {
        const took = now() - at;
        if (outcome !== 'refused') return end(mine, took, outcome);
        const rest = latency === undefined ? FIRST_REST_MS : Math.min(latency * REST, LONGEST_REST_MS);
        later(() => {
          end(mine, took, outcome);
          onFree();
        }, rest);
      };
    },
  };
}
