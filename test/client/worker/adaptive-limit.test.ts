import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createAdaptiveLimit } from '../../../client/worker/adaptive-limit.ts';
import { createLimit, type Limit } from '../../../client/worker/limit.ts';
import { type ModelServer, simulate, type Work } from './model-server.ts';

const SERVER: ModelServer = { full: 'queues', places: 16, latency: 100, spread: 'none', refusals: 0, failures: 0 };
const CHANCE: Partial<ModelServer> = { spread: 'exponential', refusals: 0.1, failures: 0.1 };

describe('an adaptive limit comes within a fifth of the best fixed one', () => {
  const servers: [string, ModelServer, number[]][] = [
    ['before a server that lets calls wait', SERVER, [8, 16, 32]],
    ['before a server that refuses calls', { ...SERVER, full: 'refuses' }, [8, 16]],
    ['before a server that lets wait, and refuses and fails by chance', { ...SERVER, ...CHANCE }, [8, 16, 32]],
    [
      'before a server that refuses what is too much, and some by chance',
      { ...SERVER, ...CHANCE, full: 'refuses' },
      [8, 16],
    ],
    ['before a small server', { ...SERVER, places: 2, full: 'refuses' }, [1, 2]],
    ['before a large server', { ...SERVER, places: 64 }, [32, 64, 96]],
  ];
  for (const [where, server, settings] of servers) {
    test(where, () => {
      const best = Math.max(...settings.map((setting) => simulate(server, setting, 1).rate));
      for (const seed of [1, 2, 3]) {
        const { rate, limit } = simulate(server, 'auto', seed);
        assert.ok(
          rate >= 0.8 * best,
          `seed ${seed}: ${rate.toFixed(1)} of ${best.toFixed(1)} a second, limit ${limit}`,
        );
      }
    });
  }
});

test('an adaptive limit does not go where more work at a time brings nothing', () => {
  for (const seed of [1, 2, 3]) {
    const { limit } = simulate({ ...SERVER, places: 8 }, 'auto', seed);
    assert.ok(limit >= 6 && limit <= 24, `${limit}`);
  }
});

test('an adaptive limit goes further with a server that gives more although it slows down', () => {
  const server: ModelServer = { ...SERVER, full: 'slows' };
  const { limit, late } = simulate(server, 'auto', 1);
  assert.ok(limit >= 16, `${limit}`);
  // Half of what there is to have comes at 16.
  assert.ok(late >= simulate(server, 16, 1).rate, `${late}`);
});

describe('before a server with many places, a batch takes about as long as with a fixed limit', () => {
  const fresh = (latency: number, full: ModelServer['full'], tasks: number, work: Partial<Work> = {}) => {
    const server: ModelServer = { ...SERVER, full, places: 64, latency };
    const [auto, fixed] = (['auto', 64] as const).map((limit) =>
      simulate(server, limit, 1, { tasks, reserve: true, ...work }),
    );
    return (auto?.time as number) / (fixed?.time as number);
  };

  for (const latency of [5, 20, 50, 200, 1400]) {
    test(`that answers in ${latency} ms`, () => {
      for (const full of ['queues', 'refuses'] as const) {
        // Where answers are fast, less is harder.
        const rounds = Math.ceil((latency < 100 ? 3000 : 10_000) / latency);
        const ratio = fresh(latency, full, rounds * 57);
        assert.ok(ratio < 1.255, `${full}: ${ratio}`);
      }
    });
  }

  test('that answers faster than the next tasks come', () => {
    assert.ok(fresh(5, 'queues', 3000, { gap: 15 }) <= 2);
  });
});

describe('a limit finds another number when the server becomes another', () => {
  const small: ModelServer = { ...SERVER, places: 4, latency: 1400 };
  const after = 40_000;
  const live = { every: 500, latency: 250 };
  const within = (full: ModelServer['full'], work: Partial<Work>, isFound: (limit: number) => boolean) => {
    for (const seed of [1, 2, 3]) {
      const { limits } = simulate({ ...small, full, refusals: 0.3 }, 'auto', seed, { reserve: true, ...work });
      const found = limits.find(({ at, limit }) => at > after && isFound(limit));
      assert.ok(found && found.at < after + 60_000, `${full}, seed ${seed}: ${JSON.stringify(limits.slice(-20))}`);
    }
  };

  test('with many places where there were few, also beside short live calls and with refusals by chance', () => {
    const tasks = 1500;
    for (const full of ['queues', 'refuses'] as const) {
      for (const refusals of [0, 0.3]) {
        const changes = [{ at: after, server: { places: 64, refusals } }];
        within(full, { tasks, live, changes }, (limit) => limit >= 48);
      }
    }
  });

  test('with few places where there were many', () => {
    for (const full of ['queues', 'refuses'] as const) {
      const changes = [
        { at: 0, server: { places: 64, refusals: 0 } },
        { at: after, server: { places: 4 } },
      ];
      within(full, { tasks: 2000, changes }, (limit) => limit <= 16);
      const { limit } = simulate({ ...small, full }, 'auto', 1, { reserve: true, tasks: 2000, changes });
      assert.ok(limit <= 8, `${full}: ${limit}`);
    }
  });

  test('but not when it was only away for a while', () => {
    const changes = [
      { at: 20_000, server: { refusals: 1 } },
      { at: 40_000, server: { refusals: 0 } },
    ];
    const { limits } = simulate({ ...SERVER, places: 64 }, 'auto', 1, { tasks: 20_000, changes });
    const during = limits.filter(({ at }) => at > 21_000 && at < 41_000);
    assert.ok(
      during.every(({ limit }) => limit >= 32),
      JSON.stringify(during),
    );
  });
});

test('before a server that answers one request at a time, live tasks wait for few others', () => {
  for (const spread of ['none', 'exponential'] as const) {
    const server: ModelServer = { ...SERVER, places: 1, latency: 5000, spread };
    for (const seed of [1, 2, 3]) {
      const { limits, wait } = simulate(server, 'auto', seed, {
        tasks: 150,
        reserve: true,
        live: { every: 30_000, latency: 5000 },
      });
      assert.ok(limits.find(({ limit }) => limit <= 2)?.at ?? Number.POSITIVE_INFINITY < 120_000, `seed ${seed}`);
      assert.ok(wait < 6 * server.latency, `seed ${seed}: ${wait}`);
    }
  }
});

describe('what an engine says of its load is a hint', () => {
  test('its places are gone to at once, and hardly beyond', () => {
    for (const [places, most] of [
      [4, 5],
      [64, 71],
    ] as const) {
      const { limits } = simulate({ ...SERVER, places, latency: 5000 }, 'auto', 1, { tasks: 600, tells: 'places' });
      assert.ok(limits.every(({ at, limit }) => limit <= most || at <= 100));
      assert.equal(limits.find(({ at }) => at >= 100)?.limit, most);
    }
  });

  test('where requests wait in it the limit does not stay', () => {
    for (const seed of [1, 2, 3]) {
      const server: ModelServer = { ...SERVER, latency: 5000, spread: 'exponential' };
      const { limit } = simulate(server, 'auto', seed, { tasks: 1000, reserve: true, tells: 'waiting' });
      assert.ok(limit >= 8 && limit <= 32, `seed ${seed}: ${limit}`);
    }
  });
});

test('a limit learns nothing from work that leaves room', () => {
  const limit = createAdaptiveLimit({ min: 1, max: 1000, initial: 8, ...createClock() });
  answer(limit, 1000, 4);
  assert.equal(limit.limit, 8);
  answer(limit, 100);
  assert.ok(limit.limit > 8);
});

let time = 0;
const createClock = () => ({ now: () => time });

/** Has work answered in rounds, each in the same time; `most` at once where that leaves room. */
function answer(limit: Limit, count: number, most = Number.POSITIVE_INFINITY) {
  for (let answered = 0; answered < count; ) {
    const ends = Array.from({ length: Math.min(limit.limit, most) }, () => limit.begin());
    if (ends.length === limit.limit) limit.filled();
    time += 50;
    for (const end of ends) end('done');
    answered += ends.length;
  }
}

test('a place too many does not ask on and on: what is refused stays below what is answered', () => {
  for (const seed of [1, 2, 3]) assert.ok(simulate({ ...SERVER, full: 'refuses' }, 'auto', seed).refused < 3000);
});

test('a limit stays within its bounds, and says which of them can not be', () => {
  assert.equal(createLimit(3).limit, 3);
  assert.equal(createLimit({ max: 2 }).limit, 2);
  assert.equal(createLimit({ min: 9 }).limit, 9);
  assert.throws(() => createLimit({ min: 3, max: 2 }), /concurrency.max: must not be below min/);
  assert.throws(() => createLimit(1.5), /concurrency: 1.5 is not an integer/);
  assert.throws(() => createLimit({ initial: 0 }), /concurrency.initial: 0/);
});
