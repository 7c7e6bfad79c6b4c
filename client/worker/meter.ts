import type { Outcome } from './limit.ts';

/** A window has so many answers, and two rounds at least: a round is as many as were under way at once. */
const ANSWERS = 24;
/** One that takes long is over after a round, and so many. */
const LONG_MS = 1000;
const FEWEST_ANSWERS = 8;
/** One that takes less is chance. */
const SHORTEST_MS = 100;
/** Work that left room open for so long, or for half an answer, was not there. */
const PAUSE_MS = 1000;
/** Answers that take this many times as long as one alone are as good as not slower. */
export const NOT_SLOWER = 1.25;
/** And these have waited. */
const WAITED = 1.5;
/** Of fewer under way hardly one is ever overtaken. */
const FEWEST_IN_QUEUE = 3;
/** The spread of lengths, as a part of their mean: where they look alike; else it is taken for the mean. */
const LEAST_SPREAD = 0.25;
/** What one window differs from the next by anyway: a machine has other things to do. */
const NOISE = 0.1;
/** Of this many kinds of work each is known; the others are one. */
const KINDS = 64;

/** What a window has shown. */
export type Seen = {
  /** How much was under way when the room was full. */
  size: number;
  /** Milliseconds. */
  time: number;
  /** How many of each kind. */
  answers: Map<string, number>;
  /** By which part the rate of answers may be wrong. */
  error: number;
  /** The share of work that was refused or failed, and by how much it may be wrong. */
  broken: number;
  chance: number;
  /** How many times as long as one alone answers take. */
  slower: number;
  /** Answers come in the order in which they were asked for, and take longer than one alone: they wait for each other. */
  isQueue: boolean;
  /** And one is worked on at a time. */
  isSingle: boolean;
  /** How many windows it is long. */
  windows: number;
};

/** Measures how work goes under a limit, in windows. */
export function createMeter(now: () => number) {
  const kinds = new Map<string, { usual: number; alone: number }>();
  /** In the order in which they began. */
  const running = new Set<number>();
  let begun = 0;
  let usual = 0;

  let generation = 0;
  let changedAt = now();
  /** Since then. */
  let fresh = { begun: 0, broken: 0 };
  /** What began under another limit and has not ended. */
  let older = 0;
  let warm = true;
  /** Since when there has been room that no work has taken. */
  let openSince: number | undefined = Number.NEGATIVE_INFINITY;

  const nothing = () => ({
    began: now(),
    answers: new Map<string, number>(),
    done: 0,
    broken: 0,
    peak: Math.max(1, running.size),
    presses: 0,
    pressed: 0,
    // Of work that began under this limit.
    own: 0,
    slower: 0,
    overtook: 0,
    shown: 0,
  });
  let window = nothing();
  const restart = () => {
    window = nothing();
  };
  const isPressed = () => openSince === undefined || now() - openSince <= Math.max(PAUSE_MS, usual / 2);
  const show = (windows: number): Seen => {
    const { began, answers, done, broken, peak, presses, pressed, own, slower, overtook } = window;
    const mean = own === 0 ? 1 : slower / own;
    const spread = mean <= NOT_SLOWER ? LEAST_SPREAD : 1;
    const size = Math.max(1, presses > 0 ? pressed / presses : peak);
    const isQueue = size >= FEWEST_IN_QUEUE && overtook === 0 && mean > WAITED;
    return {
      size,
      time: now() - began,
      answers,
      error: Math.hypot(spread / Math.sqrt(Math.max(done, 1)), NOISE / Math.sqrt(Math.max(windows, 1))),
      ...shareOf(broken, done + broken),
      slower: mean,
      isQueue,
      isSingle: isQueue && size < 2 * mean,
      windows,
    };
  };

  return {
    get inFlight() {
      return running.size;
    },
    /** Milliseconds that an answer takes, about; 0 before the first. */
    get usual() {
      return usual;
    },
    restart,
    /** The limit is another now. What began before says nothing of it, for as long as an answer takes. */
    change(): void {
      generation++;
      changedAt = now();
      fresh = { begun: 0, broken: 0 };
      older = running.size;
      warm = older === 0;
      restart();
    },
    /** Work fills the room that it may use. */
    press(): void {
      if (!isPressed()) restart();
      openSince = undefined;
      window.presses++;
      window.pressed += running.size;
    },
    begin(kind: string): (outcome: Outcome) => void {
      const name = kinds.has(kind) || kinds.size < KINDS ? kind : '';
      const mine = generation;
      const id = begun++;
      const at = now();
      running.add(id);
      fresh.begun++;
      window.peak = Math.max(window.peak, running.size);
      return (outcome) => {
        const [first] = running;
        running.delete(id);
        const took = now() - at;
        openSince ??= now();
        if (mine !== generation && older > 0) older--;
        if (!warm && (older === 0 || now() - changedAt >= usual)) {
          warm = true;
          restart();
          if (mine !== generation) return;
        }
        if (outcome === 'ignored') return;
        if (outcome !== 'done') {
          window.broken++;
          if (mine === generation) fresh.broken++;
          return;
        }
        const known = kinds.get(name) ?? { usual: took, alone: took };
        known.usual += (took - known.usual) / 16;
        known.alone = Math.min(known.alone, took);
        kinds.set(name, known);
        usual = usual === 0 ? took : usual + (took - usual) / 16;
        window.done++;
        window.answers.set(name, (window.answers.get(name) ?? 0) + 1);
        if (first !== id) window.overtook++;
        if (mine !== generation) return;
        window.own++;
        window.slower += took / known.alone;
      };
    },
    /** A window when it is whole, and again when it is twice as long, and so on. */
    seen(): Seen | undefined {
      const { began, done, broken, peak } = window;
      const time = now() - began;
      if (!warm || time < SHORTEST_MS || !isPressed()) return undefined;
      const rounds = Math.ceil(time >= LONG_MS ? FEWEST_ANSWERS / peak : Math.max(2, ANSWERS / peak));
      // Of what is refused many come at once.
      const windows = Math.max(done, broken) / (rounds * peak);
      if (Math.floor(windows) <= window.shown) return undefined;
      window.shown = Math.floor(windows);
      return show(window.shown);
    },
    /** What has been seen so far, when it is enough to tell that it goes much slower than it did. */
    slow(): Seen | undefined {
      if (!warm || window.done < FEWEST_ANSWERS || !isPressed()) return undefined;
      const alone = Math.max(...[...kinds.values()].map((kind) => kind.alone));
      return now() - window.began >= Math.max(LONG_MS, 3 * alone) ? show(0) : undefined;
    },
    /** What a round of work that began under this limit has shown, when it has been answered. */
    early(): Seen | undefined {
      return window.own > 0 && window.own >= window.peak && isPressed() ? show(0) : undefined;
    },
    /** What was refused or failed of all that has begun under this limit, when that is enough to tell. */
    broken(): Pick<Seen, 'broken' | 'chance'> | undefined {
      return fresh.broken >= FEWEST_ANSWERS ? shareOf(fresh.broken, fresh.begun) : undefined;
    },
    /** Answers a millisecond. Those of a kind that takes long are worth more than those that do not. */
    rate({ answers, time }: Pick<Seen, 'answers' | 'time'>): number {
      let sum = 0;
      for (const [kind, count] of answers) sum += count * (kinds.get(kind)?.usual ?? 0);
      return sum / time;
    },
  };
}

/** Where little has been seen, nothing is all or none. */
function shareOf(broken: number, all: number): Pick<Seen, 'broken' | 'chance'> {
  const share = broken === 0 ? 0 : (broken + 1) / (all + 2);
  return { broken: share, chance: Math.sqrt((share * (1 - share)) / (all + 2)) };
}
