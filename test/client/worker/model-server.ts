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

export type Work = {
  /** How many tasks of a batch there are. */
  tasks: number;
  /** Milliseconds between an answer and the next task. */
  gap: number;
  /** Live tasks: milliseconds between them, and those that an answer takes. */
  live: { every: number; latency: number } | undefined;
  /** Whether the batch leaves a tenth of the places to live tasks. */
  reserve: boolean;
  /** What the server is from a time on. */
  changes: { at: number; server: Partial<ModelServer> }[];
  /** What the server tells of its load. */
  tells: 'waiting' | 'places' | undefined;
};

const ALL: Work = { tasks: 6000, gap: 2, live: undefined, reserve: false, changes: [], tells: undefined };

/** A worker with more tasks than it can do before a model server, in time that is only counted. */
export function simulate(given: ModelServer, concurrency: number | 'auto', seed: number, work: Partial<Work> = {}) {
  const { tasks, gap, live, reserve, changes, tells } = { ...ALL, ...work };
  let server = given;
  const chance = chances(seed);
  let time = 0;
  const events: { at: number; run: () => void }[] = [];
  const after = (ms: number, run: () => void) => {
    const at = time + ms;
    let low = 0;
    for (let high = events.length; low < high; ) {
      const middle = (low + high) >> 1;
      if ((events[middle] as { at: number }).at <= at) high = middle;
      else low = middle + 1;
    }
    events.splice(low, 0, { at, run });
  };
  const limit: Limit =
    concurrency === 'auto'
      ? createAdaptiveLimit({
          min: 1,
          max: 1000,
          initial: 8,
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
  const asked: number[] = [];
  const waits: number[] = [];
  const limits: { at: number; limit: number }[] = [];
  const queue: (() => void)[] = [];

  const call = (kind: string, latency: number, over: () => void) => {
    const end = limit.begin(kind);
    const finish = (outcome: Outcome) => {
      end(outcome);
      if (outcome === 'refused') refused++;
      else if (outcome === 'done') over();
      if (limits.at(-1)?.limit !== limit.limit) limits.push({ at: time, limit: limit.limit });
      // The next one has to be taken first.
      after(gap, fill);
    };
    const at = chance();
    if (at < server.refusals) return after(1, () => finish('refused'));
    const broken = at < server.refusals + server.failures;
    const takes = broken ? 1 : latency * (server.spread === 'none' ? 1 : -Math.log(1 - chance()));
    const run = () => {
      inside++;
      after(server.full === 'slows' ? takes * (1 + inside / server.places) : takes, () => {
        inside--;
        finish(broken ? 'failed' : 'done');
        if (inside < server.places) queue.shift()?.();
      });
    };
    if (server.full === 'slows' || inside < server.places) return run();
    if (server.full === 'queues') queue.push(run);
    else after(1, () => finish('refused'));
  };
  const kept = () => (reserve ? Math.min(Math.max(1, Math.ceil(limit.limit / 10)), limit.limit - 1) : 0);
  const fill = () => {
    while (limit.inFlight < limit.limit && asked.length > 0) {
      const began = asked.shift() as number;
      call('live', live?.latency as number, () => waits.push(time - began));
    }
    while (limit.inFlight < limit.limit - kept()) {
      call('batch', server.latency, () => {
        if (++done === tasks / 2) halfAt = time;
      });
    }
    limit.filled();
  };
  const ask = () => {
    if (live === undefined) return;
    asked.push(time);
    fill();
    after(live.every * -Math.log(1 - chance()), ask);
  };
  const tell = () => {
    limit.hint?.(tells === 'places' ? { places: server.places } : { waiting: queue.length });
    after(2000, tell);
  };
  fill();
  ask();
  if (tells) after(100, tell);
  for (const change of changes) {
    after(change.at, () => {
      server = { ...server, ...change.server };
      while (queue.length > 0 && inside < server.places) queue.shift()?.();
    });
  }
  while (done < tasks) {
    const next = events.pop() as { at: number; run: () => void };
    time = next.at;
    next.run();
  }
  return {
    /** Answers a second, over all and in the last half. */
    rate: (done / time) * 1000,
    late: (tasks / 2 / (time - halfAt)) * 1000,
    time,
    refused,
    limit: limit.limit,
    /** When the limit changed, and to what. */
    limits,
    /** What live tasks waited for their answers, on the average. */
    wait: waits.reduce((sum, one) => sum + one, 0) / waits.length,
  };
}

function fixed(limit: number): Limit {
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
    filled: () => undefined,
  };
}
