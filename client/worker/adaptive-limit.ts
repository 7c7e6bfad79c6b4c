import type { EngineLoad, Limit, Outcome } from './limit.ts';
import { createMeter, NOT_SLOWER, type Seen } from './meter.ts';

/** What more work at a time must bring to be kept: this part of what it would bring if nothing stood in its way. */
const WORTH = 0.4;
const WORTH_AT_FIRST = 0.25;
const WORTH_DOWNWARDS = 0.3;
/** Less than this part of it, and the way up is over. */
const KNEE = 0.6;
/** More refusals and failures than this, beyond the usual, are a flood. */
const FLOOD = 0.5;
/** More than the usual by this, and answers that are not slower are no reason to grow. */
const FEW = 0.15;
/** Room that differs by less is the same. */
const SAME = 0.05;
/** By how much the limit grows at once where the first answers come together. */
const FIRST_LEAP = 4;
/** How often a level is measured before the next one is tried: doubled by every try that brings nothing. */
const MOST_HOLDS = 8;
/** And for how long at most: a server may be replaced by another. */
const LONGEST_HOLD_MS = 10_000;
/** A rate that differs from what it was by so much, as a logarithm, is that of another server. */
const OTHER = Math.log(2);
/** A rate that falls to this part of what it was is not watched any longer. */
const SLUMP = 1 / 3;
/** For how many windows a try goes on while chance may decide it. */
const LONGEST_TRY = 4;
/** A place whose work was refused rests for a part of what an answer takes, so that a place too many does not ask on and on. */
const REST = 0.5;
const LONGEST_REST_MS = 1000;
const SHORTEST_REST_MS = 100;

/** What is known of a limit. */
type Level = Pick<Seen, 'size' | 'time' | 'answers' | 'error' | 'broken' | 'chance'> & { limit: number };

/**
 * A limit that finds the concurrency from which on more brings nothing: hill climbing on the rate of answers. A level that is known is left for a try, and
 * the try is kept if it pays. It grows by leaps at first, then by its square root upwards and by a little downwards. As long as answers take no longer than
 * one alone, it grows without measuring their rate.
 *
 * The rate, and not latency, decides because a server that batches (vLLM, SGLang) slows every answer down with each it takes on and still gives more.
 * Refusals alone are no reason to go back, since a server may refuse by chance or by a limit of its own a minute. A flood of them is.
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
  /** More work may begin, without the end of any. */
  onFree?: () => void;
}): Limit {
  const { min, max, now = () => performance.now(), later = setTimeout, onFree = () => undefined } = options;
  const meter = createMeter(now);
  let limit = options.initial;

  /** On the way up, by leaps. */
  let starting = true;
  let leap = FIRST_LEAP;
  let level: Level | undefined;
  /** The last try that did not pay. */
  let tried: Level | undefined;
  let upwards = true;
  /** Tries in a row that paid: a step upwards is longer than the one before. */
  let streak = 0;
  /** How often the level has been measured, and is measured before the next try. */
  let holds = 0;
  let holdFor = 1;
  let heldSince = now();
  /** What the engine said last. */
  let load: EngineLoad = {};

  /** A tenth more than an engine has places, since a worker keeps as many for live tasks. */
  const most = () =>
    Math.max(min, Math.min(max, load.places === undefined ? max : load.places + Math.ceil(load.places / 10)));
  /** What waits in the engine; a few may be on their way. */
  const crowd = () => ((load.waiting ?? 0) > limit / 10 ? (load.waiting as number) : 0);
  const go = (to: number) => {
    limit = Math.min(Math.max(Math.round(to), min), most());
    holds = 0;
    heldSince = now();
    meter.change();
  };

  /** Upwards a try must bring its worth, and pay for what is refused besides; downwards it may cost no more than that. */
  const compare = (one: Omit<Level, 'limit'>, known: Level) => {
    const grown = one.size / known.size - 1;
    const gain = meter.rate(one) / meter.rate(known) - 1;
    const worth = grown < 0 ? WORTH_DOWNWARDS : starting ? WORTH_AT_FIRST : WORTH;
    return {
      grown,
      gain,
      margin: gain - worth * grown - (one.broken - known.broken),
      error: Math.hypot(Math.hypot(one.error, known.error) * (1 + gain), one.chance, known.chance),
    };
  };

  /** From a level that is known to the next try. */
  const goOn = (seen: Seen) => {
    if (limit >= most() || crowd() > 0 || seen.isSingle) upwards = false;
    else if (limit <= min) upwards = true;
    if (starting && upwards) return go(limit * 2);
    if (upwards) return go(limit + Math.min(Math.max(1, limit / 2), 2 ** streak * Math.max(1, Math.sqrt(limit))));
    const less = limit - Math.max(1, limit / 20, Math.min(crowd(), limit / 2));
    go(seen.isQueue ? Math.min(less, seen.size / seen.slower) : less);
  };

  const retreat = () => {
    const back = level !== undefined && level.limit < limit ? level.limit : limit / 2;
    if (level?.limit !== back) level = undefined;
    tried = undefined;
    starting = false;
    streak = 0;
    go(back);
  };

  /** Measured again, a level is known better. */
  const measured = (seen: Seen) => {
    const change = level === undefined ? 1 : meter.rate(seen) / meter.rate(level);
    const chance = Math.hypot(seen.error, level?.error ?? 0);
    if (Math.abs(Math.log(change)) > Math.max(OTHER, 3 * chance)) {
      level = { ...seen, limit };
      tried = undefined;
      holdFor = 1;
      streak = 0;
      starting = upwards = change > 1;
      return upwards ? goOn(seen) : go(limit * change);
    }
    level = { ...(level === undefined ? seen : both(level, seen)), limit };
    // It may be less than what was tried from it after all.
    if (tried && compare(tried, level).margin >= 0) {
      upwards = tried.limit > limit;
      const again = tried.limit;
      tried = undefined;
      return go(again);
    }
    if (starting && (seen.isQueue || crowd() > 0)) starting = upwards = false;
    const isHeld = ++holds >= (load.waiting === 0 ? 1 : holdFor) || now() - heldSince >= LONGEST_HOLD_MS;
    if (starting || isHeld) return goOn(seen);
    meter.restart();
  };

  /** Judges a try. */
  const judge = (seen: Seen, known: Level) => {
    const { grown, gain, margin, error } = compare(seen, known);
    // Where a part is kept for live tasks, a larger limit may give no more room.
    const isSame = Math.abs(grown) < SAME;
    const pays = isSame ? limit > known.limit : margin >= 0;
    const isSure = isSame || Math.abs(margin) >= error || seen.windows >= LONGEST_TRY;
    // On the way up a leap too many does less harm than time.
    if (!isSure && !(starting && pays)) return;
    /** Where the way up ended, if all beyond it brought nothing. */
    const knee = known.limit * (1 + gain);
    tried = undefined;
    if (pays) {
      level = { ...seen, limit };
      holdFor = 1;
      streak++;
      if (starting && gain + error < KNEE * grown) {
        starting = upwards = false;
        streak = 0;
        return go(knee);
      }
      if (upwards && (streak > 1 || margin > error)) starting = true;
      return goOn(seen);
    }
    streak = 0;
    if (starting && grown > FIRST_LEAP / 2 && gain - error > WORTH_AT_FIRST) return go(knee);
    starting = false;
    upwards = !upwards;
    holdFor = Math.min(holdFor * 2, MOST_HOLDS);
    tried = { ...seen, limit };
    go(known.limit);
  };

  /** Answers take no longer than one alone: what is more at a time brings as much more. */
  const grow = (seen: Seen) => {
    // A round takes as long as an answer.
    const known = level ?? { ...seen, time: Math.max(seen.time, meter.usual) };
    const time = (known.time * known.size) / seen.size;
    level = { ...known, limit, size: seen.size, time, broken: (known.broken + seen.broken) / 2 };
    upwards = true;
    go(limit * leap);
    leap = 2;
  };

  const slump = () => {
    const slow = level && meter.slow();
    return slow && meter.rate(slow) < meter.rate(level as Level) * SLUMP ? slow : undefined;
  };

  const isFlood = ({ broken, chance }: Pick<Seen, 'broken' | 'chance'>) =>
    broken - 2 * chance > FLOOD + (level?.broken ?? 0) / 2;

  const look = () => {
    const refused = level !== undefined && level.limit < limit ? meter.broken() : undefined;
    if (refused && isFlood(refused)) return retreat();
    const early = starting && limit < most() && crowd() === 0 ? meter.early() : undefined;
    if (early && early.slower <= NOT_SLOWER && early.broken <= (level?.broken ?? 0) + FEW) return grow(early);
    const seen = meter.seen() ?? slump();
    if (seen === undefined) return;
    // A server that is away says nothing of how much it could do.
    if (seen.answers.size === 0) return meter.restart();
    if (isFlood(seen)) return retreat();
    if (level === undefined || level.limit === limit) return measured(seen);
    judge(seen, level);
  };

  return {
    get limit() {
      return limit;
    },
    get inFlight() {
      return meter.inFlight;
    },
    begin(kind = '') {
      const end = meter.begin(kind);
      return (outcome: Outcome) => {
        const over = () => {
          end(outcome);
          look();
        };
        if (outcome !== 'refused') return over();
        const { usual } = meter;
        later(
          () => {
            over();
            onFree();
          },
          Math.min(Math.max(usual * REST, SHORTEST_REST_MS), LONGEST_REST_MS),
        );
      };
    },
    filled: meter.press,
    hint(said) {
      const isNew = said.places !== undefined && said.places !== load.places;
      load = said;
      if (!isNew) return;
      level = tried = undefined;
      starting = false;
      go(most());
      onFree();
    },
  };
}

/** What two windows of a limit say together; the older one says half as much. */
function both(older: Level, { size, time, answers, error, broken, chance }: Seen): Omit<Level, 'limit'> {
  const sums = new Map(answers);
  for (const [kind, count] of older.answers) sums.set(kind, (sums.get(kind) ?? 0) + count / 2);
  return {
    size,
    time: older.time / 2 + time,
    answers: sums,
    error: 1 / Math.hypot(1 / error, Math.SQRT1_2 / older.error),
    broken: (older.broken + broken) / 2,
    chance: Math.hypot(older.chance, chance) / 2,
  };
}
