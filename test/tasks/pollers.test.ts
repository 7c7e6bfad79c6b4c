import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createPollers } from '../../server/tasks/pollers.ts';
import type { TakenTask, TakeRequest } from '../../server/tasks/take.ts';

const PLAIN: TakeRequest = {
  lanes: [],
  size: 1,
  strategy: 'fifo',
  endpoint: null,
  minAgeSeconds: 0,
  worker: null,
  leaseSeconds: null,
  maxAttempts: null,
  waitSeconds: 1,
};
const SEQUENTIAL: TakeRequest = { ...PLAIN, strategy: 'sequential' };
const CHOOSY: TakeRequest = { ...PLAIN, minAgeSeconds: 1 };
const NEVER = new AbortController().signal;

/** Takes that wait, asleep for long; `woken()` names those that were woken since. */
function sleepers() {
  const pollers = createPollers();
  let awake: string[] = [];
  const join = (name: string, lanes: string[], kind = PLAIN) => {
    const poller = pollers.join({ ...kind, lanes });
    const doze = () => {
      void poller.sleep(performance.now() + 900, NEVER).then(() => awake.push(name));
    };
    return { looking: poller.looking, leave: poller.leave, doze };
  };
  return {
    pollers,
    join,
    asleep(name: string, lanes: string[], kind = PLAIN) {
      const poller = join(name, lanes, kind);
      poller.looking();
      poller.doze();
      return poller;
    },
    async woken() {
      await new Promise<void>((resolve) => setImmediate(resolve));
      const names = awake;
      awake = [];
      return names;
    },
  };
}

test('as many are woken as tasks came, who waited longest first', async () => {
  const { pollers, asleep, woken } = sleepers();
  for (const name of ['a', 'b', 'c']) asleep(name, ['q:0']);
  pollers.wake('q:0', 2);
  assert.deepEqual(await woken(), ['a', 'b']);
  pollers.wake('q:0', 2);
  assert.deepEqual(await woken(), ['c']);
});

test('only those who wait for the lane are woken', async () => {
  const { pollers, asleep, woken } = sleepers();
  asleep('a', ['q:0']);
  asleep('b', ['q:1', 'r:0']);
  pollers.wake('r:0', 5);
  assert.deepEqual(await woken(), ['b']);
  pollers.wake('q:1', 5);
  pollers.wake('none:0', 5);
  assert.deepEqual(await woken(), []);
});

test('one that is looking counts for no task, as it may leave with another', async () => {
  const { pollers, join, asleep, woken } = sleepers();
  join('looking', ['q:0']).looking();
  asleep('asleep', ['q:0']);
  pollers.wake('q:0', 1);
  assert.deepEqual(await woken(), ['asleep']);
});

test('one that was told while it looked does not go to sleep', async () => {
  const { pollers, join, woken } = sleepers();
  const poller = join('a', ['q:0']);
  poller.looking();
  pollers.wake('q:0', 1);
  poller.doze();
  assert.deepEqual(await woken(), ['a']);
});

test('the choosy are woken, and one more for each task', async () => {
  const { pollers, asleep, woken } = sleepers();
  asleep('choosy', ['q:0'], CHOOSY);
  asleep('a', ['q:0']);
  asleep('b', ['q:0']);
  pollers.wake('q:0', 1);
  assert.deepEqual(await woken(), ['choosy', 'a']);
});

test('the end of a running task wakes those who take its queue in sequence, at any level', async () => {
  const { pollers, asleep, woken } = sleepers();
  asleep('plain', ['q:0']);
  asleep('other level', ['q:3'], SEQUENTIAL);
  asleep('other queue', ['qq:0'], SEQUENTIAL);
  asleep('same', ['x:0', 'q:0'], SEQUENTIAL);
  pollers.free('q:0');
  assert.deepEqual((await woken()).sort(), ['other level', 'same']);
});

test('all are woken when messages may have been lost', async () => {
  const { pollers, asleep, woken } = sleepers();
  asleep('a', ['q:0']);
  asleep('b', ['r:0'], SEQUENTIAL);
  pollers.wakeAll();
  assert.deepEqual((await woken()).sort(), ['a', 'b']);
});

test('who has left is not woken in place of another', async () => {
  const { pollers, asleep, woken } = sleepers();
  const { leave } = asleep('gone', ['q:0', 'r:0']);
  leave();
  asleep('there', ['q:0']);
  pollers.wake('q:0', 1);
  assert.deepEqual(await woken(), ['there']);
});

test('a sleep ends when its caller goes away, and at its time', async () => {
  const { pollers } = sleepers();
  const gone = new AbortController();
  const poller = pollers.join({ ...PLAIN, lanes: ['q:0'] });
  const asleep = poller.sleep(performance.now() + 60_000, gone.signal);
  gone.abort();
  await asleep;
  await poller.sleep(performance.now() + 60_000, gone.signal);
  await poller.sleep(performance.now() + 20, NEVER);
});

const task = (id: string) => ({ id }) as TakenTask;

test('a put promises its tasks to those who sleep, who waited longest first, as many as each takes', () => {
  const { pollers, join, asleep } = sleepers();
  join('looking', ['q:0']).looking();
  asleep('choosy', ['q:0'], CHOOSY);
  asleep('round robin', ['q:0'], { ...PLAIN, strategy: 'round_robin' });
  asleep('two', ['p:0', 'q:0'], { ...PLAIN, size: 2 });
  asleep('one', ['q:0']);
  const promised = [1, 2, 3, 4].map(() => pollers.promise('q:0')?.request.size);
  assert.deepEqual(promised, [2, 2, 1, undefined]);
  assert.equal(pollers.promise('none:0'), undefined);
});

test('who was promised tasks is handed them, whatever comes meanwhile; a task that comes meanwhile wakes another', async () => {
  const { pollers, asleep, woken } = sleepers();
  const first = pollers.join({ ...PLAIN, lanes: ['q:0'] });
  const gone = new AbortController();
  first.looking();
  const handed = first.sleep(performance.now() + 60_000, gone.signal);
  asleep('second', ['q:0']);
  const promised = pollers.promise('q:0');
  assert.ok(promised);
  pollers.wake('q:0', 1);
  gone.abort();
  assert.deepEqual(await woken(), ['second']);
  pollers.hand(promised, [task('1')]);
  assert.deepEqual(await handed, [task('1')]);
});

test('who was promised tasks and gets none sleeps on, unless it was woken meanwhile', async () => {
  const { pollers, asleep, woken } = sleepers();
  asleep('a', ['q:0']);
  const none = () => pollers.hand(pollers.promise('q:0') as never, []);
  none();
  assert.deepEqual(await woken(), []);
  const promised = pollers.promise('q:0');
  pollers.wakeAll();
  assert.deepEqual(await woken(), []);
  pollers.hand(promised as never, []);
  assert.deepEqual(await woken(), ['a']);
});

test('a lane that was seen empty needs no other look for half a second, unless something may have come', () => {
  let now = 0;
  const pollers = createPollers(undefined, () => now);
  const join = (lanes: string[], kind = PLAIN) => pollers.join({ ...kind, lanes });
  const looks = (lanes: string[], kind = PLAIN) => join(lanes, kind).looking() !== undefined;
  const see = (lanes: string[]) => join(lanes).looking()?.();
  see(['q:0', 'r:0']);
  assert.deepEqual([looks(['q:0']), looks(['r:0', 'q:0']), looks(['q:0', 's:0'])], [false, false, true]);
  assert.ok(looks(['q:0'], CHOOSY) && looks(['q:0'], SEQUENTIAL), 'they pass over what others would take');
  now = 500;
  assert.ok(looks(['q:0']));
  for (const come of [() => pollers.wake('q:0', 1), () => pollers.room('q:3'), () => pollers.wakeAll()]) {
    see(['q:0']);
    assert.ok(!looks(['q:0']));
    come();
    assert.ok(looks(['q:0']));
    const saw = join(['q:0', 'r:0']).looking();
    come();
    saw?.();
    assert.ok(looks(['q:0']), 'it came while somebody looked');
  }
});
