import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type Receiver, startReceiver } from '../callbacks/receiver.ts';
import type { Json } from '../support/server.ts';
import { assertRefused, CHAT, fixture, NO_SUCH_TASK } from './fixture.ts';

const f = fixture();

let receiver: Receiver;
before(async () => {
  receiver = await startReceiver();
});
after(() => receiver?.close());

const release = (id: string, body?: object) => f.worker('POST', `/v1/queue/${id}/release`, body);
const task = async (id: string): Promise<Json> => (await f.client('GET', `/v1/queue/${id}`)).json;

/** How long a task that was released under `attempt`, by its queue's and its own settings, is put off: ms. */
async function putOff(attempt: number, settings: object, more: object = {}): Promise<number> {
  const queue = await f.queue(CHAT, { max_attempts: 100, ...settings });
  const id = await f.put(queue, more);
  for (let n = 1; n <= attempt; n++) {
    assert.equal((await f.takeOne(`${queue}:0`)).attempt, n);
    await release(id, n < attempt ? { delay_seconds: 0 } : {});
  }
  const { status, run_at, attempts } = await task(id);
  assert.equal(status, 'deferred');
  return Math.round(run_at - attempts.at(-1).ended_at);
}

/** Rounding of two times to milliseconds. */
const assertAbout = (actual: number, expected: number, what?: string) =>
  assert.ok(Math.abs(actual - expected) <= 2, `${what ?? ''}: ${actual} is not ${expected}`);

describe('a release', { concurrency: true }, () => {
  test('answers the id, and the task is deferred, with the attempt on record', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`, { worker: { id: 'me' } });
    const answer = await release(id, { delay_seconds: 1000.5, reason: 'overloaded', attempt: 1 });
    assert.deepEqual([answer.status, answer.text], [200, `"${id}"`]);
    const deferred = await task(id);
    assert.deepEqual([deferred.status, deferred.attempt, deferred.running_time], ['deferred', 1, 0]);
    const [first, ...none] = deferred.attempts;
    assert.deepEqual(none, []);
    assert.deepEqual([first.attempt, first.worker, first.reason], [1, 'me', 'overloaded']);
    assertAbout(deferred.run_at - first.ended_at, 1_000_500);
    const lane = (await f.worker('GET', `/v1/queue/${queue}:0/stats`)).json;
    assert.deepEqual([lane.waiting, lane.deferred, lane.running], [0, 1, 0]);
    assert.equal((await f.client('GET', `/v1/tasks?queue=${queue}&status=deferred`)).json.data[0].task_id, id);
    assert.deepEqual(await f.take(`${queue}:0`), []);
  });

  test('is over by itself: the next attempt begins at its time and not before, and wakes who waits for work', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    const parked = f.takeOne(`${queue}:0`, { wait: 30 });
    await release(id, { delay_seconds: 1, reason: 'overloaded' });
    const again = await parked;
    assert.deepEqual([again.task_id, again.attempt], [id, 2]);
    const [released, running] = (await task(id)).attempts;
    assert.ok(running.taken_at - released.ended_at >= 1000, 'not before its time');
    await f.complete(id, 'done');
    assert.deepEqual(
      (await task(id)).attempts.map((one: Json) => [one.attempt, one.reason]),
      [
        [1, 'overloaded'],
        [2, 'succeeded'],
      ],
    );
  });

  test('without a body, or with an empty one, goes by the backoff and says released', async () => {
    const queue = await f.queue(CHAT, { retry: { initial_seconds: 100, jitter: false } });
    for (const body of [undefined, {}, { delay_seconds: null, reason: null, attempt: null }, { reason: '' }]) {
      const id = await f.put(queue);
      await f.takeOne(`${queue}:0`);
      assert.equal((await release(id, body)).status, 200, JSON.stringify(body));
      const { run_at, attempts } = await task(id);
      assert.equal(attempts[0].reason, 'released');
      assertAbout(run_at - attempts[0].ended_at, 100_000, JSON.stringify(body));
    }
  });

  test('without jitter is put off by initial x factor^(attempt - 1), at most max', async () => {
    const retry = { initial_seconds: 10, factor: 3, max_seconds: 200, jitter: false };
    for (const [attempt, seconds] of [
      [1, 10],
      [2, 30],
      [3, 90],
      [4, 200],
      [5, 200],
    ] as const)
      assertAbout(await putOff(attempt, { retry }), seconds * 1000, `attempt ${attempt}`);
  });

  test('is put off by what the task says of retry, and the queue of the rest', async () => {
    const queue = { retry: { initial_seconds: 10, factor: 3, max_seconds: 200, jitter: false } };
    assertAbout(await putOff(2, queue, { retry: { initial_seconds: 7 } }), 21_000, 'initial_seconds');
    assertAbout(await putOff(2, queue, { retry: { factor: 1.5 } }), 15_000, 'factor');
    assertAbout(await putOff(3, queue, { retry: { max_seconds: 50.5 } }), 50_500, 'max_seconds');
    const jittered = { retry: { ...queue.retry, jitter: true } };
    assertAbout(await putOff(1, jittered, { retry: { jitter: false } }), 10_000, 'jitter');
    const own = { initial_seconds: 1000, factor: 1, max_seconds: 2000, jitter: false };
    assertAbout(await putOff(4, jittered, { retry: own }), 1_000_000, 'all');
  });

  test('with jitter is put off by anything up to the backoff, each time by something else', async () => {
    const queue = await f.queue(CHAT, { retry: { initial_seconds: 1000, max_seconds: 1000, jitter: true } });
    const ids = (
      await f.client('POST', '/v1/queue/puts', {
        tasks: Array.from({ length: 40 }, () => ({ queue, endpoint: CHAT, data: {} })),
      })
    ).json.data as string[];
    await f.take(`${queue}:0`, { size: 40 });
    const waits = await Promise.all(
      ids.map(async (id) => {
        await release(id);
        const { run_at, attempts } = await task(id);
        return run_at - attempts[0].ended_at;
      }),
    );
    for (const wait of waits) assert.ok(wait >= 0 && wait <= 1_000_001, `${wait}`);
    // Each would fail once in 10^12 runs.
    assert.ok(Math.min(...waits) < 500_000, 'some come in the first half');
    assert.ok(Math.max(...waits) > 500_000, 'some come in the second half');
    assert.ok(new Set(waits).size > 20);
  });

  test('with delay_seconds 0 makes the task wait at once, in its old place', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.put(queue);
    await f.takeOne(`${queue}:0`);
    await release(id, { delay_seconds: 0 });
    assert.equal(await f.status(id), 'waiting');
    const again = await f.takeOne(`${queue}:0`);
    assert.deepEqual([again.task_id, again.attempt], [id, 2]);
  });

  test('of a task that the worker had not begun does not count, whatever attempt it was', async () => {
    const queue = await f.queue(CHAT, { max_attempts: 1 });
    const id = await f.put(queue);
    for (let n = 0; n < 3; n++) {
      assert.equal((await f.takeOne(`${queue}:0`)).attempt, 1);
      await release(id, { begun: false, attempt: 1 });
      const { status, attempts } = await task(id);
      assert.deepEqual([status, attempts], ['waiting', []]);
    }
  });

  test('of a task that was refused by what should do it does not count either, and waits for its delay', async () => {
    const queue = await f.queue(CHAT, { max_attempts: 1 });
    const id = await f.put(queue);
    assert.equal((await f.takeOne(`${queue}:0`)).attempt, 1);
    const at = Date.now();
    await release(id, { begun: false, delay_seconds: 1, reason: 'overloaded' });
    const { status, attempts, run_at } = await task(id);
    assert.deepEqual([status, attempts], ['deferred', []]);
    assert.ok(run_at >= at + 990);
    assert.equal((await f.takeOne(`${queue}:0`, { wait: 30 })).attempt, 1);
  });

  test('of the last attempt makes the task dead, and says so to who waits: blocking, stream and callback', async () => {
    const queue = await f.queue(CHAT, { max_attempts: 2 });
    const asked = f.tryPut({ queue, response_mode: 'blocking' });
    const { stream, id: streamed } = await f.stream(queue, { level: 1 });
    const called = await f.put(queue, { level: 2, callback_url: receiver.url() });
    for (const level of [0, 1, 2])
      for (const reason of ['first', 'second']) {
        const { task_id: id } = await f.takeOne(`${queue}:${level}`);
        assert.equal((await release(id, { delay_seconds: 0, reason })).status, 200);
      }
    assertRefused(await asked, 502, /no attempts are left/);
    const id = (await asked).headers.get('x-task-id') as string;
    const { status, attempt, attempts, result } = await task(id);
    assert.deepEqual([status, attempt], ['dead', 2]);
    assert.deepEqual(
      attempts.map((one: Json) => [one.attempt, one.reason]),
      [
        [1, 'first'],
        [2, 'second'],
      ],
    );
    const error = { code: 502, message: 'no attempts are left', type: 'dead' };
    assert.deepEqual(result, { status_code: 502, request_id: id, error });
    const events = await stream.rest();
    assert.deepEqual(
      events.map((event) => [event.name, JSON.parse(event.data)]),
      [['error', { status_code: 502, request_id: streamed, error }]],
    );
    const delivery = await receiver.next();
    delivery.answer(200);
    assert.equal(delivery.headers['x-task-id'], called);
    assert.deepEqual(JSON.parse(delivery.body), { status_code: 502, request_id: called, error });
  });

  test("counts against the task's own max_attempts where it has one", async () => {
    for (const [settings, own, alive] of [
      [{ max_attempts: 1 }, 2, true],
      [{ max_attempts: 5 }, 1, false],
    ] as const) {
      const queue = await f.queue(CHAT, settings);
      const id = await f.put(queue, { max_attempts: own });
      await f.takeOne(`${queue}:0`);
      await release(id, { delay_seconds: 0 });
      assert.equal(await f.status(id), alive ? 'waiting' : 'dead');
    }
  });

  test('past the deadline is no release: the task is deferred until then, and expires', async () => {
    const queue = await f.queue();
    const asked = f.tryPut({ queue, response_mode: 'blocking', timeout: 2 });
    const { task_id: id, expire_time } = await f.takeOne(`${queue}:0`);
    await release(id, { delay_seconds: 3600 });
    assert.equal(await f.status(id), 'deferred');
    assertRefused(await asked, 408);
    const { status, completed_time } = await task(id);
    assert.equal(status, 'expired');
    assert.ok(completed_time >= expire_time);
  });

  test('of a task that does not run is a 409 that names its state, and changes nothing', async () => {
    const queue = await f.queue(CHAT, { max_attempts: 2 });
    const put = async () => {
      const id = await f.put(queue, { level: 1 });
      await f.takeOne(`${queue}:1`);
      return id;
    };
    const waiting = await f.put(queue);
    const [deferred, succeeded, failed, cancelled, dead] = [
      await put(),
      await put(),
      await put(),
      await put(),
      await put(),
    ];
    await release(deferred, { delay_seconds: 3600 });
    await f.complete(succeeded);
    await f.complete(failed, 1, { status_code: 500 });
    await f.client('POST', `/v1/queue/${cancelled}/cancel`);
    await release(dead, { delay_seconds: 0 });
    await f.takeOne(`${queue}:1`);
    await release(dead);
    const states = { waiting, deferred, succeeded, failed, cancelled, dead };
    for (const [state, id] of Object.entries(states)) {
      const before = await task(id);
      assert.equal(before.status, state);
      for (const body of [{}, { delay_seconds: 0 }, { begun: false }, { attempt: 1 }])
        assertRefused(await release(id, body), 409, new RegExp(`the task is ${state}`));
      assert.deepEqual(await task(id), before);
    }
  });

  test('of an unknown task is a 404, and out of range it is refused by field', async () => {
    for (const id of [NO_SUCH_TASK, 'nonsense']) assertRefused(await release(id, {}), 404, /unknown task/);
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    const bad: [object, string][] = [
      [{ delay_seconds: -1 }, 'delay_seconds'],
      [{ delay_seconds: 31_622_401 }, 'delay_seconds'],
      [{ delay_seconds: '1' }, 'delay_seconds'],
      [{ reason: 1 }, 'reason'],
      [{ attempt: 0 }, 'attempt'],
      [{ attempt: '1' }, 'attempt'],
      [{ begun: 'no' }, 'begun'],
    ];
    for (const [body, path] of bad) assertRefused(await release(id, body), 400, undefined, path);
    assert.equal(await f.status(id), 'running');
  });

  test('by two at once is done once, and the other is told', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => release(id, { delay_seconds: 3600, attempt: 1 })),
    );
    assert.deepEqual(answers.map((answer) => answer.status).sort(), [200, ...Array(9).fill(409)]);
    assert.equal((await task(id)).attempts.length, 1);
  });
});

test('max_attempts and retry of a put out of range are refused by path, in a put and in puts', async () => {
  const queue = await f.queue();
  const bad: [object, string][] = [
    [{ max_attempts: 0 }, 'max_attempts'],
    [{ max_attempts: 101 }, 'max_attempts'],
    [{ max_attempts: 1.5 }, 'max_attempts'],
    [{ retry: 1 }, 'retry'],
    [{ retry: { initial_seconds: -1 } }, 'retry.initial_seconds'],
    [{ retry: { initial_seconds: 86_401 } }, 'retry.initial_seconds'],
    [{ retry: { factor: 0.5 } }, 'retry.factor'],
    [{ retry: { max_seconds: 'x' } }, 'retry.max_seconds'],
    [{ retry: { jitter: 1 } }, 'retry.jitter'],
  ];
  for (const [more, path] of bad) {
    assertRefused(await f.tryPut({ queue, ...more }), 400, undefined, path);
    const tasks = [{ queue, endpoint: CHAT, data: {}, ...more }];
    assertRefused(await f.client('POST', '/v1/queue/puts', { tasks }), 400, undefined, `tasks.0.${path}`);
  }
  assert.deepEqual(await f.take(`${queue}:0`), []);
});
