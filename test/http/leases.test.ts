import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type Receiver, startReceiver } from '../callbacks/receiver.ts';
import type { Json } from '../support/server.ts';
import { assertRefused, CHAT, fixture, NO_SUCH_TASK } from './fixture.ts';

const f = fixture();
const HEARTBEAT = '/v1/queue/heartbeat';

let receiver: Receiver;
before(async () => {
  receiver = await startReceiver();
});
after(() => receiver?.close());

const heartbeat = async (tasks: object[], more: object = {}): Promise<Json> => {
  const answer = await f.worker('POST', HEARTBEAT, { tasks, ...more });
  assert.equal(answer.status, 200, answer.text);
  return answer.json;
};
const task = async (id: string): Promise<Json> => (await f.client('GET', `/v1/queue/${id}`)).json;
const ended = async (id: string): Promise<Json> => {
  for (;;) {
    const found = await task(id);
    if (found.result) return found;
  }
};

describe('a lease', { concurrency: true }, () => {
  test('that lapses puts the task back at once under the next attempt, and the history says so', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    const first = await f.takeOne(`${queue}:0`, { lease_seconds: 1, worker: { id: 'lost' } });
    assert.equal(first.attempt, 1);
    const second = await f.takeOne(`${queue}:0`, { worker: { id: 'next' } });
    assert.deepEqual([second.task_id, second.attempt, second.status], [id, 2, 'waiting']);
    const [lapsed, running, ...none] = (await task(id)).attempts;
    assert.deepEqual(none, []);
    assert.deepEqual([lapsed.attempt, lapsed.worker, lapsed.reason], [1, 'lost', 'lapsed']);
    assert.ok(lapsed.ended_at - lapsed.taken_at >= 1000, 'not before its time');
    assert.ok(lapsed.ended_at - lapsed.taken_at < 5000, 'soon after it');
    assert.deepEqual(running, { attempt: 2, worker: 'next', taken_at: running.taken_at, ended_at: 0, reason: null });
    assert.ok(running.taken_at >= lapsed.ended_at);
    await f.complete(id, 'done', { attempt: 2 });
    const told = (await task(id)).attempts;
    assert.deepEqual(told[0], lapsed);
    assert.deepEqual([told[1].attempt, told[1].reason, told.length], [2, 'succeeded', 2]);
    assert.ok(told[1].ended_at >= told[1].taken_at);
  });

  test('is as long as its take says, by either name, else as its queue says', async () => {
    const cases: [object, object][] = [
      [{ lease_seconds: 3600 }, { lease_seconds: 1 }],
      [{ lease_seconds: 3600 }, { process_timeout: 1 }],
      [{ lease_seconds: 1 }, {}],
      [{ lease_seconds: 1 }, { process_timeout: 0 }],
      [{ lease_seconds: 1 }, { lease_seconds: null, process_timeout: null }],
    ];
    await Promise.all(
      cases.map(async ([settings, more]) => {
        const queue = await f.queue(CHAT, settings);
        await f.put(queue);
        await f.takeOne(`${queue}:0`, more);
        assert.equal((await f.takeOne(`${queue}:0`)).attempt, 2, JSON.stringify(more));
      }),
    );
  });

  test('of a take that asks for more than the queue gives lasts longer than one that does not', async () => {
    const queue = await f.queue(CHAT, { lease_seconds: 1 });
    const long = await f.put(queue);
    await f.takeOne(`${queue}:0`, { lease_seconds: 60 });
    const short = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    assert.equal((await f.takeOne(`${queue}:0`)).task_id, short);
    assert.equal(await f.status(long), 'running');
  });

  test('of a changed queue applies to the takes that follow', async () => {
    const queue = await f.queue(CHAT, { lease_seconds: 3600 });
    await f.worker('PATCH', `/v1/queue/${queue}`, { lease_seconds: 1 });
    await f.put(queue);
    await f.takeOne(`${queue}:0`);
    assert.equal((await f.takeOne(`${queue}:0`)).attempt, 2);
  });

  test("lapses as often as the queue's max_attempts, or the task's, or the take's process_max_retries allow", async () => {
    const cases: [settings: object, put: object, take: object, attempts: number][] = [
      [{ max_attempts: 1 }, {}, {}, 1],
      [{ max_attempts: 2 }, {}, {}, 2],
      [{ max_attempts: 1 }, { max_attempts: 2 }, {}, 2],
      [{ max_attempts: 2 }, { max_attempts: 1 }, {}, 1],
      [{ max_attempts: 3 }, {}, { process_max_retries: 0 }, 1],
      [{ max_attempts: 3 }, { max_attempts: 3 }, { process_max_retries: 1 }, 2],
      [{ max_attempts: 1 }, { max_attempts: 1 }, { process_max_retries: 1 }, 2],
    ];
    await Promise.all(
      cases.map(async ([settings, put, take, attempts]) => {
        const queue = await f.queue(CHAT, settings);
        const id = await f.put(queue, put);
        for (let n = 1; n <= attempts; n++)
          assert.equal((await f.takeOne(`${queue}:0`, { lease_seconds: 1, ...take })).attempt, n);
        const dead = await ended(id);
        const what = JSON.stringify([settings, put, take]);
        assert.deepEqual([dead.status, dead.attempt], ['dead', attempts], what);
        assert.deepEqual(
          dead.attempts.map((one: Json) => [one.attempt, one.reason]),
          Array.from({ length: attempts }, (_, n) => [n + 1, 'lapsed']),
          what,
        );
      }),
    );
  });

  test('lapses without limit where process_max_retries is -1', async () => {
    const queue = await f.queue(CHAT, { max_attempts: 1 });
    const id = await f.put(queue, { max_attempts: 1 });
    for (const attempt of [1, 2, 3])
      assert.equal((await f.takeOne(`${queue}:0`, { lease_seconds: 1, process_max_retries: -1 })).attempt, attempt);
    assert.equal(await f.status(id), 'running');
  });

  test('that lapses for the last time tells 502 to who waits: blocking, stream and callback', async () => {
    const queue = await f.queue(CHAT, { max_attempts: 1, lease_seconds: 1 });
    const asked = f.tryPut({ queue, level: 1, response_mode: 'blocking' });
    const { stream, id: streamed } = await f.stream(queue, { level: 2 });
    const called = await f.put(queue, { level: 3, callback_url: receiver.url('/dead') });
    for (const level of [1, 2, 3]) await f.takeOne(`${queue}:${level}`);
    const answer = await asked;
    assertRefused(answer, 502, /no attempts are left/);
    assert.match(answer.headers.get('x-task-id') ?? '', /^TASK-/);
    const event = await stream.next();
    assert.equal(event?.name, 'error');
    const error = { code: 502, message: 'no attempts are left', type: 'dead' };
    assert.deepEqual(JSON.parse(event?.data ?? ''), { status_code: 502, request_id: streamed, error });
    assert.equal(await stream.next(), undefined);
    const delivery = await receiver.next();
    delivery.answer(200);
    assert.deepEqual(JSON.parse(delivery.body), { status_code: 502, request_id: called, error });
    assert.deepEqual((await task(called)).result, { status_code: 502, request_id: called, error });
  });

  test('that lapses behind a stream and a blocking client costs them nothing: one answer, from the next attempt', async () => {
    const queue = await f.queue();
    const asked = f.tryPut({ queue, response_mode: 'blocking' });
    const { stream } = await f.stream(queue, { level: 1 });
    for (const level of [0, 1]) {
      const lost = await f.takeOne(`${queue}:${level}`, { lease_seconds: 1 });
      if (level === 1) await f.emit(lost.task_id, 'chunk', 1, { attempt: 1 });
    }
    for (const level of [0, 1]) {
      const { task_id: id, attempt } = await f.takeOne(`${queue}:${level}`);
      assert.equal(attempt, 2);
      if (level === 1) await f.emit(id, 'chunk', 2, { attempt });
      await f.complete(id, { by: attempt }, { attempt });
    }
    assert.deepEqual([(await asked).status, (await asked).json], [200, { by: 2 }]);
    const events = await stream.rest();
    assert.deepEqual(
      events.map((event) => [event.name, JSON.parse(event.data)]).map(([name, data]) => [name, data.body ?? data]),
      [
        ['chunk', 1],
        ['chunk', 2],
        ['completion', { by: 2 }],
      ],
    );
  });

  test('frees its queue when it lapses: a sequential take that waits gets the task', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`, { strategy: 'sequential', lease_seconds: 1 });
    await f.put(queue);
    const next = await f.takeOne(`${queue}:0`, { strategy: 'sequential' });
    assert.deepEqual([next.task_id, next.attempt], [id, 2]);
  });
});

describe('a heartbeat', { concurrency: true }, () => {
  test('extends a lease from now on, for as long as it says', async () => {
    const queue = await f.queue(CHAT, { lease_seconds: 1 });
    const [kept, left] = [await f.put(queue), await f.put(queue)];
    await f.take(`${queue}:0`, { size: 2 });
    const told = await heartbeat([{ task_id: kept, attempt: 1 }], { lease_seconds: 60 });
    assert.deepEqual(told, { extended: [kept], lost: [], cancelled: [] });
    assert.equal((await f.takeOne(`${queue}:0`)).task_id, left);
    assert.equal(await f.status(kept), 'running');
    assert.equal((await f.complete(kept, 1, { attempt: 1 })).status, 200);
  });

  test('shortens one just as well', async () => {
    const queue = await f.queue(CHAT, { lease_seconds: 3600 });
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    await heartbeat([{ task_id: id }], { lease_seconds: 1 });
    assert.equal((await f.takeOne(`${queue}:0`)).attempt, 2);
  });

  test('that names no time extends by what the task was taken for, and only while it comes', async () => {
    const queue = await f.queue();
    const [kept, left] = [await f.put(queue), await f.put(queue)];
    await f.take(`${queue}:0`, { size: 2, lease_seconds: 2 });
    while ((await f.status(left)) === 'running')
      assert.deepEqual((await heartbeat([{ task_id: kept }])).extended, [kept]);
    assert.equal((await f.takeOne(`${queue}:0`)).task_id, left);
    const again = await f.takeOne(`${queue}:0`);
    assert.deepEqual([again.task_id, again.attempt], [kept, 2]);
  });

  test('tells which tasks go on, which are cancelled, and which are lost', async () => {
    const queue = await f.queue();
    const ids: string[] = [];
    for (let n = 0; n < 6; n++) ids.push(await f.put(queue));
    const [mine, cancelled, finished, gone, stale, released] = ids as [string, string, string, string, string, string];
    await f.take(`${queue}:0`, { size: 6 });
    const waiting = await f.put(queue, { level: 1 });
    await f.client('POST', `/v1/queue/${cancelled}/cancel`);
    await f.complete(finished);
    await f.worker('POST', `/v1/queue/${gone}/release`, { delay_seconds: 0 });
    await f.takeOne(`${queue}:0`);
    await f.worker('POST', `/v1/queue/${released}/release`, { delay_seconds: 60 });
    const told = await heartbeat([
      { task_id: mine, attempt: 1 },
      { task_id: cancelled, attempt: 1 },
      { task_id: finished },
      { task_id: gone, attempt: 1 },
      { task_id: stale, attempt: 2 },
      { task_id: released },
      { task_id: waiting },
      { task_id: NO_SUCH_TASK },
      { task_id: 'nonsense' },
      { task_id: gone, attempt: 2 },
    ]);
    assert.deepEqual(
      { ...told, lost: told.lost.sort() },
      {
        extended: [mine, gone],
        cancelled: [cancelled],
        lost: [finished, gone, stale, released, waiting, NO_SUCH_TASK, 'nonsense'].sort(),
      },
    );
  });

  test('is refused by field', async () => {
    const bad: [object, string][] = [
      [{}, 'tasks'],
      [{ tasks: [] }, 'tasks'],
      [{ tasks: {} }, 'tasks'],
      [{ tasks: Array.from({ length: 10_001 }, () => ({ task_id: NO_SUCH_TASK })) }, 'tasks'],
      [{ tasks: [NO_SUCH_TASK] }, 'tasks.0'],
      [{ tasks: [{ task_id: NO_SUCH_TASK }, { task_id: 7 }] }, 'tasks.1.task_id'],
      [{ tasks: [{ task_id: NO_SUCH_TASK, attempt: 0 }] }, 'tasks.0.attempt'],
      [{ tasks: [{ task_id: NO_SUCH_TASK, attempt: 1.5 }] }, 'tasks.0.attempt'],
      [{ tasks: [{ task_id: NO_SUCH_TASK }], lease_seconds: 0 }, 'lease_seconds'],
      [{ tasks: [{ task_id: NO_SUCH_TASK }], lease_seconds: 86_401 }, 'lease_seconds'],
    ];
    for (const [body, path] of bad) assertRefused(await f.worker('POST', HEARTBEAT, body), 400, undefined, path);
  });

  test('of 10,000 tasks is one call', async () => {
    const tasks = Array.from({ length: 10_000 }, () => ({ task_id: NO_SUCH_TASK }));
    assert.equal((await heartbeat(tasks)).lost.length, 10_000);
  });
});

describe('a stale attempt', { concurrency: true }, () => {
  /** A task whose first worker is too late: it runs under attempt 2. */
  const overtaken = async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`, { lease_seconds: 1 });
    assert.equal((await f.takeOne(`${queue}:0`)).attempt, 2);
    return id;
  };

  test('is refused everywhere, and the one that runs is not disturbed', async () => {
    const id = await overtaken();
    const stale = { attempt: 1 };
    assertRefused(await f.complete(id, 'late', stale), 409, /another attempt than 1/);
    assertRefused(await f.worker('POST', `/v1/queue/${id}/release`, stale), 409, /another attempt than 1/);
    const bulk = await f.worker('POST', '/v1/queue/complete', {
      results: [{ task_id: id, status_code: 200, body: 'late', ...stale }],
    });
    assert.equal(bulk.json.data[0].ok, false);
    assert.match(bulk.json.data[0].message, /another attempt than 1/);
    assert.deepEqual(await heartbeat([{ task_id: id, ...stale }]), { extended: [], lost: [id], cancelled: [] });
    const progress = {
      name: 'task-progress-event',
      payload: { taskId: id, eventName: 'chunk', eventData: 1, ...stale },
    };
    const result = { status_code: 200, body: 'late' };
    const completion = { name: 'task-completion-event', payload: { taskId: id, result, ...stale } };
    for (const event of [progress, completion])
      assertRefused(await f.worker('POST', '/v1/queue/events', event), 409, /attempt/);
    const many = await f.worker('POST', '/v1/queue/events', [progress, completion]);
    assert.deepEqual(
      many.json.data.map((one: Json) => one.ok),
      [false, false],
    );
    assert.equal(await f.status(id), 'running');
    await f.emit(id, 'chunk', 2, { attempt: 2 });
    assert.equal((await f.complete(id, 'in time', { attempt: 2 })).status, 200);
    assert.equal((await task(id)).result.body, 'in time');
    assertRefused(await f.complete(id, 'late', stale), 409, /succeeded/);
  });

  test('that answers after its lapse and before anybody else took the task is refused as well', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`, { lease_seconds: 1 });
    while ((await f.status(id)) === 'running');
    assertRefused(await f.complete(id, 'late', { attempt: 1 }), 409, /waiting/);
    assertRefused(await f.worker('POST', `/v1/queue/${id}/release`, { attempt: 1 }), 409, /waiting/);
    assert.equal(await f.status(id), 'waiting');
    assert.equal((await f.takeOne(`${queue}:0`)).attempt, 2);
  });

  test('of no task is one that was never given', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    assertRefused(await f.complete(id, 1, { attempt: 2 }), 409, /another attempt than 2/);
    for (const attempt of [0, -1, 1.5, '1'])
      assertRefused(await f.complete(id, 1, { attempt }), 400, undefined, 'attempt');
  });
});

test('process_max_retries out of range is named', async () => {
  const queue = await f.queue();
  for (const process_max_retries of [-2, 1.5, '1', 2 ** 31])
    assertRefused(
      await f.worker('POST', '/v1/queue/take', { queues: [`${queue}:0`], size: 1, process_max_retries }),
      400,
      undefined,
      'process_max_retries',
    );
});
