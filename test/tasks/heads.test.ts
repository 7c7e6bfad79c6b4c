import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Place } from '../../server/db/take-tasks.ts';
import { createHeads, isBelow } from '../../server/tasks/heads.ts';

const BOTTOM = { rank: 0, id: '0' };
const at = (id: string, rank = 95) => ({ rank, id });

/** Heads under a clock that stands until it is moved, and what waits below them as a test says. */
function clocked() {
  let now = 0;
  const asked: Place[][] = [];
  let answer: () => Promise<Place[]> = async () => [];
  const heads = createHeads(
    (places) => {
      asked.push([...places]);
      return answer();
    },
    () => now,
  );
  return {
    heads,
    asked,
    answerBy: (how: typeof answer) => {
      answer = how;
    },
    pass: (ms: number) => {
      now += ms;
    },
    /** Where a take of this lane would start. */
    start: (lane: string) => heads.begin([lane]).heads[0],
    /** A take that finds `head` first. */
    take: (lane: string, head = at('10')) => heads.begin([lane]).seen(new Map([[lane, head]])),
  };
}

test('a lane of which nothing is known is taken from its bottom', () => {
  assert.deepEqual(clocked().start('a:0'), BOTTOM);
});

test('a take starts where the last one found the first task', () => {
  const { take, start } = clocked();
  take('a:0', at('10'));
  assert.deepEqual(start('a:0'), at('10'));
  assert.deepEqual(start('b:0'), BOTTOM);
  take('a:0', at('20'));
  assert.deepEqual(start('a:0'), at('20'));
});

test('a take that found nothing leaves the head where it was', () => {
  const { heads, take, start } = clocked();
  take('a:0', at('10'));
  heads.begin(['a:0']).seen(new Map());
  assert.deepEqual(start('a:0'), at('10'));
});

test('a task that comes to wait below the head lowers it, one above does not', () => {
  const { heads, take, start } = clocked();
  take('a:0', at('10'));
  heads.lower('a:0', at('11'));
  assert.deepEqual(start('a:0'), at('10'));
  heads.lower('a:0', at('9'));
  assert.deepEqual(start('a:0'), at('9'));
  heads.lower('a:0', at('99', 90));
  assert.deepEqual(start('a:0'), at('99', 90));
});

test('a head that was lowered during a take is not raised by what that take saw', () => {
  const { heads, take, start } = clocked();
  take('a:0', at('10'));
  const underWay = heads.begin(['a:0']);
  heads.lower('a:0', at('5'));
  underWay.seen(new Map([['a:0', at('12')]]));
  assert.deepEqual(start('a:0'), at('5'));
  take('a:0', at('12'));
  assert.deepEqual(start('a:0'), at('12'));
});

test('once a second it is asked what waits below a head, and what does lowers it', async () => {
  const { heads, take, start, pass, asked, answerBy } = clocked();
  take('a:0', at('10'));
  pass(999);
  assert.equal(heads.begin(['a:0']).below, undefined);
  pass(1);
  const empty = heads.begin(['a:0', 'b:0']);
  assert.deepEqual(empty.heads, [at('10'), BOTTOM]);
  assert.deepEqual(asked, [[{ lane: 'a:0', ...at('10') }]], 'a take from the bottom needs no look');
  assert.equal(heads.begin(['a:0']).below, undefined, 'one look at a time');
  assert.equal(await empty.below, false);
  answerBy(async () => [{ lane: 'a:0', ...at('7') }]);
  pass(1000);
  const { below, seen } = heads.begin(['a:0']);
  assert.equal(await below, true);
  assert.deepEqual(start('a:0'), at('7'));
  seen(new Map([['a:0', at('12')]]));
  assert.deepEqual(start('a:0'), at('7'), 'the take had begun above it');
});

for (const [took, rest, what] of [
  [100, 5000, 'a look that took long is followed by a rest of fifty times as long'],
  [10_000, 60_000, 'the rest is a minute at most'],
] as const) {
  test(what, async () => {
    const { heads, take, pass, answerBy } = clocked();
    take('a:0');
    pass(1000);
    answerBy(async () => {
      pass(took);
      return [];
    });
    await heads.begin(['a:0']).below;
    pass(rest - 1);
    assert.equal(heads.begin(['a:0']).below, undefined);
    pass(1);
    assert.equal(await heads.begin(['a:0']).below, false);
  });
}

test('a look that fails found nothing, and is made again a second later, however long it took', async () => {
  const { heads, take, start, pass, answerBy } = clocked();
  take('a:0');
  pass(1000);
  answerBy(async () => {
    pass(10_000);
    throw new Error('away');
  });
  assert.equal(await heads.begin(['a:0']).below, false);
  assert.deepEqual(start('a:0'), at('10'));
  pass(1000);
  assert.equal(await heads.begin(['a:0']).below, false);
});

test('when messages may have been lost, the next take looks below', async () => {
  const { heads, take } = clocked();
  take('a:0');
  assert.equal(heads.begin(['a:0']).below, undefined);
  heads.lookAgain();
  assert.equal(await heads.begin(['a:0']).below, false);
});

test('each lane of a take has its own head', () => {
  const { heads, take, start } = clocked();
  take('a:0', at('10'));
  const both = heads.begin(['b:0', 'a:0']);
  assert.deepEqual(both.heads, [BOTTOM, at('10')]);
  both.seen(new Map([['b:0', at('3')]]));
  assert.deepEqual([start('a:0'), start('b:0')], [at('10'), at('3')]);
});

test('a lower rank comes first, then a smaller number, however many digits it has', () => {
  assert.ok(isBelow(at('9', 1), at('1', 2)));
  assert.ok(isBelow(at('9'), at('10')));
  assert.ok(isBelow(at('600000000000000001'), at('600000000000000002')));
  assert.ok(!isBelow(at('10'), at('9')));
  assert.ok(!isBelow(at('10'), at('10')));
});
