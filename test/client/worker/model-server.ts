import { createAdaptiveLimit } from '../../../client/worker/adaptive-limit.ts';
import type { Limit, Outcome } from '../../../client/worker/limit.ts';

/** The same numbers from 0 to 1 for the same seed (mulberry32). */
export function chances(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export type ModelServer = {
  /** Beyond its places it refuses, or lets wait; or every task slows down all others. */
  full: 'refuses' | 'queues' | 'slows';
  places: number;
  /** Milliseconds that an answer takes, on the average. */
  latency: number;
  spread: 'none' | 'exponential';
  /** Shares of calls that are refused, and that fail, by chance. */
  refusals: number;
  failures: number;
};

/**
 * A worker with more tasks than it can do before a model server, in time that is only counted. Gives answers a second over all, over the last half, and
 * what was refused.
 */
export function simulate(server: ModelServer, concurrency: number | 'auto', seed: number, tasks = 6000) {
  const { places, latency, full } = server;
  const chance = chances(seed);
  let time = 0;
  const events: { at: number; run: () => void }[] = [];
  const after = (ms: number, run: () => void) => {
    const at = time + ms;
    let index = events.length;
    while (index > 0 && (events[index - 1] as { at: number }).at < at) index--;
    events.splice(index, 0, { at, run });
  };
  const limit: Pick<Limit, 'limit' | 'inFlight' | 'begin'> =
    concurrency === 'auto'
      ? createAdaptiveLimit({
          min: 1,
          max: 1000,
          initial: 4,
          now: () => time,
          later(run, ms) {
            after(ms, () => {
              run();
              fill();
            });
          },
        })
      : fixed(concurrency);

  let inside = 0;
  let done = 0;
  let refused = 0;
  let halfAt = 0;
  const queue: (() => void)[] = [];

  const call = (end: (outcome: Outcome) => void) => {
    const finish = (outcome: Outcome) => {
      end(outcome);
      if (outcome === 'done' && ++done === tasks / 2) halfAt = time;
      if (outcome === 'refused') refused++;
      // The next one has to be taken first.
      after(2, fill);
    };
    const at = chance();
    if (at < server.refusals) return after(1, () => finish('refused'));
    const broken = at < server.refusals + server.failures;
    const work = broken ? 1 : latency * (server.spread === 'none' ? 1 : -Math.log(1 - chance()));
    const run = () => {
      inside++;
      after(full === 'slows' ? work * (1 + inside / places) : work, () => {
        inside--;
        finish(broken ? 'failed' : 'done');
        queue.shift()?.();
      });
    };
    if (full === 'slows' || inside < places) return run();
    if (full === 'queues') queue.push(run);
    else after(1, () => finish('refused'));
  };
  const fill = () => {
    while (limit.inFlight < limit.limit) call(limit.begin());
  };
  fill();
  while (done < tasks) {
    const next = events.pop() as { at: number; run: () => void };
    time = next.at;
    next.run();
  }
  return { rate: (done / time) * 1000, late: (tasks / 2 / (time - halfAt)) * 1000, refused, limit: limit.limit };
}

function fixed(limit: number) {
  let inFlight = 0;
  return {
    limit,
    get inFlight() {
      return inFlight;
    },
    begin() {
      inFlight++;
      return () => {
        inFlight--;
      };
    },
  };
}
