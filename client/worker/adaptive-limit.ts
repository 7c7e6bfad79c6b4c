import type { EngineLoad, Limit, Outcome } from './limit.ts';
import { createMeter, type Seen } from './meter.ts';

/** What more work at a time must bring to be kept: this part of what it would bring if nothing stood in its way. */
const WORTH = 0.4;
const WORTH_AT_FIRST = 0.25;
const WORTH_DOWNWARDS = 0.3;
/** Less than this part of it, and the way up is over. */
const KNEE = 0.6;
/** More refusals and failures than this, beyond the usual, are a flood. */
const FLOOD = 0.6;
/** More than the usual by this, and answers that are not slower are no reason to grow. */
const FEW = 0.15;
/** Answers that take this many times as long as one alone are as good as not slower. */
const NOT_SLOWER = 1.25;
/** How often a level is measured before the next one is tried: doubled by every try that brings nothing. */
const MOST_HOLDS = 8;
/** And for how long at most: a server may be replaced by another. */
const LONGEST_HOLD_MS = 10_000;
/** A rate that is this many times another is that of another server. */
const OTHER = 2;
/** For how many windows a try goes on while chance may decide it. */
const LONGEST_TRY = 4;
/** A place whose work was refused rests for a part of what an answer takes, so that a place too many does not ask on and on. */
const REST = 0.5;
const LONGEST_REST_MS = 1000;
const FIRST_REST_MS = 100;

/** What is known of a limit. */
type Level = Pick<Seen, 'size' | 'time' | 'answers' | 'error' | 'broken'> & { limit: number };

export function createAdaptiveLimit(options: {
  min: number;
  max: number;
  initial: number;
  /** Milliseconds. */
  now?: () => number;
  later?: (then: () => void, ms: number) => unknown;
}): Limit {
  const { min, max, now = () => performance.now(), later = setTimeout } = options;
  const meter = createMeter(now);
  let limit = options.initial;

  let starting = true;
  /** By how much the next limit is larger where answers do not get slower. */
  let leap = 4;
  let level: Level | undefined;
  /** What did not pay, as far as was known of the level. */
  let tried: Level | undefined;
  let holds = 0;
  let holdFor = 1;
  let heldSince = now();
  let upwards = true;
  /** Steps in a row that paid: each is longer than the one before. */
  let streak = 0;
  /** What the engine said last. */
  let load: EngineLoad = {};
  /** More would wait there. */
  const isCrowded = () => (load.waiting ?? 0) > limit / 10;

  const most = () => Math.max(min, Math.min(max, load.places ?? max));
  const go = (to: number) => {
    limit = Math.min(Math.max(Math.round(to), min), most());
    holds = 0;
    heldSince = now();
    meter.change();
  };

  /** Upwards it must bring its worth, and pay for what is refused besides; downwards it may cost no more than that. */
  const compare = (seen: Omit<Level, 'limit'>, last: Level) => {
    const grown = seen.size / last.size - 1;
    const gain = meter.rate(seen) / meter.rate(last) - 1;
    const error = Math.hypot(seen.error, last.error) * (1 + gain);
    const margin =
      gain - (grown < 0 ? WORTH_DOWNWARDS : starting ? WORTH_AT_FIRST : WORTH) * grown - (seen.broken - last.broken);
    return { gain, grown, error, margin };
  };

  /** Away from a level that is known. */
  const goOn = (seen: Seen) => {
    if (limit >= most() || isCrowded()) upwards = false;
    else if (limit <= min) upwards = true;
    if (starting && upwards) return go(limit * 2);
    if (upwards) return go(limit + Math.min(Math.max(1, limit / 2), 2 ** streak * Math.max(1, Math.sqrt(limit))));
    const waiting = Math.min(isCrowded() ? (load.waiting ?? 0) : 0, limit / 2);
    const less = limit - Math.max(1, limit / 20, waiting);
    go(seen.isQueue ? Math.min(less, seen.size / seen.slower) : less);
  };

  /** Looks at a window, and says where to go. */
  const judge = (seen: Seen) => {
    const { broken } = seen;
    // A server that is away says nothing of how much it could do.
    if (seen.answers.size === 0) return meter.restart();
    if (broken > FLOOD + (level?.broken ?? 0) / 2) {
      const back = level !== undefined && level.limit < limit ? level.limit : limit / 2;
      if (level?.limit !== back) level = undefined;
      starting = false;
      streak = 0;
      return go(back);
    }

    if (level === undefined || level.limit === limit) {
      const change = level === undefined ? 0 : meter.rate(seen) / meter.rate(level);
      const isOther = level !== undefined && (change > OTHER || change < 1 / OTHER);
      if (isOther) {
        holdFor = 1;
        upwards = change > 1;
        streak = upwards ? 0 : 2;
      }
      // Measured again, it is known better.
      level = { ...(level === undefined || isOther ? seen : both(level, seen)), limit };
      if (starting && (seen.isQueue || isCrowded())) {
        starting = false;
        upwards = false;
      }
      // Known better, it may be less than what was tried from it.
      if (tried && compare(tried, level).margin >= 0) {
        const { limit: again } = tried;
        tried = undefined;
        upwards = again > limit;
        return go(again);
      }
      const held = ++holds >= (load.waiting === 0 ? 1 : holdFor);
      if (starting || isOther || held || now() - heldSince >= LONGEST_HOLD_MS) return goOn(seen);
      return meter.restart();
    }

    const last = level;
    const { gain, grown, error, margin } = compare(seen, last);
    const pays = margin >= 0;
    if (seen.windows < LONGEST_TRY && Math.abs(margin) < error && !(starting && pays)) return;
    const knee = last.limit * (1 + gain);
    tried = undefined;
    if (pays) {
      level = { ...seen, limit };
      holdFor = 1;
      streak++;
      if (starting && gain + error < KNEE * grown) {
        starting = false;
        upwards = false;
        streak = 0;
        return go(knee);
      }
      // Two steps up that paid: there may be much more.
      if (upwards && (streak >= 2 || margin > error)) starting = true;
      return goOn(seen);
    }
    streak = 0;
    if (starting && grown > 1.5 && gain - error > WORTH_AT_FIRST) return go(knee);
    starting = false;
    holdFor = Math.min(holdFor * 2, MOST_HOLDS);
    upwards = !upwards;
    tried = { ...seen, limit };
    go(last.limit);
  };

  /** Answers of a level that take no longer than one alone: what is more at a time brings as much more. */
  const grow = (seen: Seen) => {
    const known = level ?? seen;
    const time = (known.time * known.size) / seen.size;
    level = { ...known, limit, size: seen.size, time, broken: (known.broken + seen.broken) / 2 };
    upwards = true;
    go(limit * leap);
    leap = 2;
  };

  const look = () => {
    const early = starting && limit < most() && !isCrowded() && meter.early();
    if (early && early.slower <= NOT_SLOWER && early.broken <= (level?.broken ?? 0) + FEW) return grow(early);
    const seen = meter.seen();
    if (seen) judge(seen);
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
        later(over, usual === 0 ? FIRST_REST_MS : Math.min(usual * REST, LONGEST_REST_MS));
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
    },
  };
}

/** What two windows of a limit say together; the older one says half as much. */
function both(older: Level, { size, time, answers, error, broken }: Seen): Omit<Level, 'limit'> {
  const sums = new Map(answers);
  for (const [kind, count] of older.answers) sums.set(kind, (sums.get(kind) ?? 0) + count / 2);
  return {
    size,
    time: older.time / 2 + time,
    answers: sums,
    error: 1 / Math.hypot(1 / error, 0.7 / older.error),
    broken: (older.broken + broken) / 2,
  };
}
