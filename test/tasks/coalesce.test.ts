import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createCoalescer } from '../../server/db/coalesce.ts';
import { badRequest, unavailable } from '../../server/protocol/errors.ts';

/** A coalescer whose calls wait until they are let go; `calls` holds the items of each. */
function stepped<Item>(
  options: {
    maxItems?: number;
    bytes?(item: Item): number;
    count?(item: Item): number;
    rest?(items: readonly Item[], ms: number): number;
    inHalves?(): boolean;
  } = {},
) {
  const calls: Item[][] = [];
  const gates: PromiseWithResolvers<void>[] = [];
  const submit = createCoalescer<Item, Item>({
    ...options,
    async run(items) {
      calls.push(items);
      const gate = Promise.withResolvers<void>();
      gates.push(gate);
      await gate.promise;
      return items;
    },
  });
  return {
    submit,
    calls,
    /** Ends the call in flight. */
    letGo: () => gates.shift()?.resolve(),
  };
}

/** Lets what is ready run, up to the next call. */
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

test('idle, an item is sent at once and alone', async () => {
  const { submit, calls, letGo } = stepped<number>();
  const done = submit(1);
  assert.deepEqual(calls, [[1]]);
  letGo();
  assert.equal(await done, 1);
});

test('for the rest after a call items collect, and go together', async () => {
  const rests: (readonly number[])[] = [];
  const { submit, calls, letGo } = stepped<number>({ rest: (items) => rests.push(items) });
  for (const items of [[1], [2, 3], [4]]) {
    // Within the rest after the call before.
    const done = items.map((item) => submit(item));
    while (calls.at(-1)?.[0] !== items[0]) await turn();
    letGo();
    await Promise.all(done);
  }
  assert.deepEqual(calls, [[1], [2, 3], [4]]);
  assert.deepEqual(rests, calls);
});

test('busy, items collect and go together, in order, when the call returns', async () => {
  const { submit, calls, letGo } = stepped<number>();
  const done = [1, 2, 3, 4].map((item) => submit(item));
  assert.deepEqual(calls, [[1]]);
  letGo();
  await turn();
  assert.deepEqual(calls, [[1], [2, 3, 4]]);
  letGo();
  assert.deepEqual(await Promise.all(done), [1, 2, 3, 4]);
});

test('at most maxItems go together, each counting for what it counts', async () => {
  const { submit, calls, letGo } = stepped<number>({ maxItems: 5, count: (item) => item });
  const done = [1, 2, 3, 4, 9, 1].map((item) => submit(item));
  for (let n = 0; n < 5; n++) {
    letGo();
    await turn();
  }
  assert.deepEqual(calls, [[1], [2, 3], [4], [9], [1]]);
  await Promise.all(done);
});

test('at most 1 MiB goes together, but one item goes however large it is', async () => {
  const MIB = 1 << 20;
  const { submit, calls, letGo } = stepped<number>({ bytes: (item) => item });
  const done = [1, MIB / 2, MIB / 2, 1, 3 * MIB, 1].map((item) => submit(item));
  for (let n = 0; n < 5; n++) {
    letGo();
    await turn();
  }
  assert.deepEqual(calls, [[1], [MIB / 2, MIB / 2], [1], [3 * MIB], [1]]);
  await Promise.all(done);
});

test('500 go together where nothing else is said', async () => {
  const { submit, calls, letGo } = stepped<number>();
  const done = Array.from({ length: 1002 }, (_, n) => submit(n));
  for (let n = 0; n < 4; n++) {
    letGo();
    await turn();
  }
  assert.deepEqual(
    calls.map((items) => items.length),
    [1, 500, 500, 1],
  );
  await Promise.all(done);
});

test('in halves, of many callers who ask again and again half go with each call, of few all that wait', async () => {
  for (const [callers, sizes] of [
    [256, [1, 128, 128, 128, 128]],
    [40, [1, 32, 8, 32, 8]],
    [20, [1, 19, 1, 19, 1]],
  ] as const) {
    const { submit, calls, letGo } = stepped<number>({ inHalves: () => true });
    const done = Array.from({ length: callers }, async (_, n) => {
      while (calls.length < sizes.length) {
        await submit(n);
        await turn();
      }
    });
    // The call in flight ends when those that the last one answered have asked again.
    for (let n = 0; n < sizes.length + 2; n++) {
      letGo();
      await turn();
      await turn();
    }
    assert.deepEqual(
      calls.slice(0, sizes.length).map((items) => items.length),
      sizes,
    );
    await Promise.all(done);
  }
});

test('whatever items are bad, they fail alone, and the others succeed once each and in order', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.boolean(), { maxLength: 40 }), async (bad) => {
      const stored: number[] = [];
      const submit = createCoalescer<number, number>({
        async run(items) {
          await Promise.resolve();
          if (items.some((item) => bad[item])) throw badRequest('bad data');
          stored.push(...items);
          return items.map((item) => item * 2);
        },
      });
      const results = await Promise.allSettled(bad.map((_, item) => submit(item)));
      for (const [item, result] of results.entries()) {
        assert.equal(result.status, bad[item] ? 'rejected' : 'fulfilled');
        if (result.status === 'fulfilled') assert.equal(result.value, item * 2);
      }
      assert.deepEqual(
        stored,
        bad.flatMap((isBad, item) => (isBad ? [] : [item])),
      );
    }),
  );
});

test('when the database is away all of a call fail with it, and nothing is tried again', async () => {
  let calls = 0;
  let away = true;
  const submit = createCoalescer<number, number>({
    async run(items) {
      calls++;
      await Promise.resolve();
      if (away) throw unavailable();
      return items;
    },
  });
  const results = await Promise.allSettled([1, 2, 3].map((item) => submit(item)));
  assert.deepEqual(
    results.map((result) => result.status),
    ['rejected', 'rejected', 'rejected'],
  );
  assert.equal(calls, 2);
  away = false;
  assert.equal(await submit(4), 4);
});
