import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createLimit } from '../../../client/worker/limit.ts';
import { type ModelServer, simulate } from './model-server.ts';

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
