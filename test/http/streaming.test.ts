import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { openStream, startServer, until } from '../support/server.ts';
import { assertRefused, CHAT, fixture } from './fixture.ts';

const f = fixture();

describe('a streaming put', { concurrency: true }, () => {
  test('sends headers with the task id at once, before anything has happened', async () => {
    const queue = await f.queue();
    const { stream, id } = await f.stream(queue);
    assert.equal(stream.status, 200);
    assert.match(stream.headers.get('content-type') ?? '', /^text\/event-stream/);
    assert.equal(stream.headers.get('cache-control'), 'no-cache');
    assert.match(id, /^TASK-\d+-0-S-/);
    assert.equal(stream.raw, '');
    assert.equal(await f.status(id), 'waiting');
    stream.close();
  });

  test('frames every event as id, event and data lines, in order, and ends with the envelope', async () => {
    const queue = await f.queue();
    const { stream, id } = await f.stream(queue);
    await f.takeOne(`${queue}:0`);
    await f.emit(id, 'chunk', { text: 'a\nb' }, { eventId: 'mine' });
    await f.emit(id, 'chunk', null);
    await f.emit(id, 'other', 'x', { eventId: 7 });
    await f.complete(id, { done: true }, { request_id: 'r' });
    const events = await stream.rest();
    const number = events[1]?.id;
    assert.match(number ?? '', /^\d+$/);
    const envelope = '{"status_code":200,"request_id":"r","body":{"done":true}}';
    assert.equal(
      stream.raw.replaceAll(/^:\n\n/gm, ''),
      `id:mine\nevent:chunk\ndata:{"text":"a\\nb"}\n\nid:${number}\nevent:chunk\ndata:null\n\n` +
        `id:7\nevent:other\ndata:"x"\n\nevent:completion\ndata:${envelope}\n\n`,
    );
  });

  test('gets each event as soon as it is sent', async () => {
    const queue = await f.queue();
    const { stream, id } = await f.stream(queue);
    await f.takeOne(`${queue}:0`);
    for (let n = 0; n < 5; n++) {
      await f.emit(id, 'step', n);
      assert.equal((await stream.next())?.data, String(n));
    }
    stream.close();
  });

  test('puts data with line breaks on one line, to the letter otherwise', async () => {
    const queue = await f.queue();
    const { stream, id } = await f.stream(queue);
    await f.takeOne(`${queue}:0`);
    const data = '{ "a":\r\n 1.0,\n\t"b":"\\n \\u2028 x" }';
    const event = `{"name":"task-progress-event","payload":{"taskId":"${id}","eventName":"e","eventData":${data}}}`;
    await f.worker('POST', '/v1/queue/events', event);
    await f.worker('POST', `/v1/queue/${id}/complete`, `{"status_code":200,"body":[\n1.0 ,\n2]}`);
    const [progress, completion] = await stream.rest();
    assert.equal(progress?.data, '{"a":1.0,"b":"\\n \\u2028 x"}');
    assert.equal(completion?.data, `{"status_code":200,"request_id":"${id}","body":[1.0,2]}`);
  });

  test('an event without data has null', async () => {
    const queue = await f.queue();
    const { stream, id } = await f.stream(queue);
    await f.takeOne(`${queue}:0`);
    await f.emit(id, 'bare', undefined);
    assert.equal((await stream.next())?.data, 'null');
    stream.close();
  });

  test('ends with completion whatever the status of the answer', async () => {
    const queue = await f.queue();
    const { stream, id } = await f.stream(queue);
    await f.takeOne(`${queue}:0`);
    await f.complete(id, { error: 'busy' }, { status_code: 429 });
    const [last, ...more] = await stream.rest();
    assert.deepEqual(more, []);
    assert.equal(last?.name, 'completion');
    assert.deepEqual(JSON.parse(last?.data as string), { status_code: 429, request_id: id, body: { error: 'busy' } });
  });

  test('ends with error when the task is cancelled', async () => {
    const queue = await f.queue();
    const { stream, id } = await f.stream(queue);
    await f.takeOne(`${queue}:0`);
    await f.emit(id, 'step', 1);
    await f.client('POST', `/v1/queue/${id}/cancel`);
    const [step, error] = await stream.rest();
    assert.deepEqual([step?.name, error?.name], ['step', 'error']);
    const { status_code, request_id, error: why } = JSON.parse(error?.data as string);
    assert.deepEqual([status_code, request_id, why.type], [499, id, 'cancelled']);
  });

  test('ends with error when the deadline passes, though the task runs', async () => {
    const queue = await f.queue();
    const { stream, id } = await f.stream(queue, { timeout: 1 });
    await f.takeOne(`${queue}:0`);
    const [error] = await stream.rest();
    assert.equal(error?.name, 'error');
    assert.equal(JSON.parse(error?.data as string).status_code, 408);
    assert.equal(await f.status(id), 'expired');
  });

  test('gets 2,000 events that come at once, each once and in order', async () => {
    const queue = await f.queue();
    const { stream, id } = await f.stream(queue);
    await f.takeOne(`${queue}:0`);
    for (const half of [0, 1000]) {
      const events = Array.from({ length: 1000 }, (_, n) => ({
        name: 'task-progress-event',
        payload: { taskId: id, eventName: 'n', eventData: half + n },
      }));
      assert.equal((await f.worker('POST', '/v1/queue/events', events)).status, 200);
    }
    await f.complete(id);
    const got = (await stream.rest()).filter((event) => event.name === 'n').map((event) => Number(event.data));
    assert.deepEqual(
      got,
      Array.from({ length: 2000 }, (_, n) => n),
    );
  });

  test('is refused in the envelope before the stream opens', async () => {
    const queue = await f.queue();
    assertRefused(await f.tryPut({ queue: 'nowhere', response_mode: 'streaming' }), 404);
    assertRefused(await f.tryPut({ queue, response_mode: 'streaming', level: 100 }), 400);
  });
});

describe('resuming a stream', { concurrency: true }, () => {
  /** A streaming task that runs and has these events: `id` null is a numbered one. */
  const running = async (events: (string | null)[]) => {
    const queue = await f.queue();
    const { stream, id } = await f.stream(queue);
    await f.takeOne(`${queue}:0`);
    for (const [n, eventId] of events.entries()) await f.emit(id, 'n', n, { eventId });
    return { stream, id };
  };
  const numbers = (events: { name: string; data: string }[]) =>
    events.filter((event) => event.name === 'n').map((event) => Number(event.data));

  test("goes on after the worker's own event id", async () => {
    const { id } = await running(['a', 'b', 'c']);
    const again = await f.follow(id, 'b');
    assert.equal((await again.next())?.data, '2');
    await f.complete(id);
    assert.deepEqual(
      (await again.rest()).map((event) => event.name),
      ['completion'],
    );
  });

  test('has an event once that its worker sent twice because it was told nothing the first time', async () => {
    const queue = await f.queue();
    const { stream, id } = await f.stream(queue);
    await f.takeOne(`${queue}:0`);
    const event = (eventId: string, more = {}) => ({
      name: 'task-progress-event',
      payload: { taskId: id, eventId, eventName: 'chunk', eventData: eventId, attempt: 1, ...more },
    });
    const first = await f.worker('POST', '/v1/queue/events', [event('a'), event('b')]);
    const again = { repeated: true };
    const second = await f.worker('POST', '/v1/queue/events', [
      event('a', again),
      event('b', again),
      event('c', again),
    ]);
    assert.deepEqual([...first.json.data, ...second.json.data], Array(5).fill({ ok: true, taskId: id }));
    await f.worker('POST', `/v1/queue/${id}/complete`, { status_code: 200, body: {} });
    assert.deepEqual(
      (await stream.rest()).map(({ id: eventId, name }) => eventId ?? name),
      ['a', 'b', 'c', 'completion'],
    );
  });

  test('goes on after the latest event that bears a repeated id', async () => {
    const { id } = await running(['same', 'same', 'x', 'same', 'y']);
    await f.complete(id);
    assert.deepEqual(numbers(await (await f.follow(id, 'same')).rest()), [4]);
    assert.deepEqual(numbers(await (await f.follow(id)).rest()), [0, 1, 2, 3, 4]);
  });

  test('goes on after an event that Tasklane numbered', async () => {
    const { stream, id } = await running([null, null, null]);
    await f.complete(id);
    const ids = (await stream.rest()).map((event) => event.id);
    for (const [n, last] of ids.slice(0, 3).entries())
      assert.deepEqual(numbers(await (await f.follow(id, last)).rest()), [0, 1, 2].slice(n + 1));
  });

  test('begins anew after an id that no event bears', async () => {
    const { id } = await running(['a', 'b']);
    await f.complete(id);
    assert.deepEqual(numbers(await (await f.follow(id, 'nobody')).rest()), [0, 1]);
  });

  test('gives further readers everything, during the task and after it', async () => {
    const { stream, id } = await running(['a']);
    const [second, asWorker] = [await f.follow(id), await f.follow(id, undefined, f.keys.worker)];
    await f.emit(id, 'n', 1);
    await f.complete(id);
    for (const reader of [stream, second, asWorker, await f.follow(id)]) {
      const events = await reader.rest();
      assert.deepEqual(
        events.map((event) => event.name),
        ['n', 'n', 'completion'],
      );
      assert.deepEqual(numbers(events), [0, 1]);
    }
  });

  test('gives each of many readers at different events what it has not had, once', async () => {
    const ids = ['a', 'b', 'c', 'd', 'e', 'f'];
    const { id } = await running(ids);
    await f.complete(id);
    await Promise.all(
      Array.from({ length: 60 }, async (_, n) => {
        const had = n % ids.length;
        const reader = await f.follow(id, had === 0 ? undefined : ids[had - 1]);
        assert.deepEqual(numbers(await reader.rest()), [0, 1, 2, 3, 4, 5].slice(had));
      }),
    );
  });

  test('serves the events of tasks in other modes as well', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    const reader = await f.follow(id);
    await f.emit(id, 'n', 5);
    assert.equal((await reader.next())?.data, '5');
    await f.complete(id);
    assert.deepEqual(
      (await reader.rest()).map((event) => event.name),
      ['completion'],
    );
    const cancelled = await f.put(queue);
    await f.client('POST', `/v1/queue/${cancelled}/cancel`);
    assert.deepEqual(
      (await (await f.follow(cancelled)).rest()).map((event) => event.name),
      ['error'],
    );
  });

  test('serves a task whose deadline is further off than a timer can be set', async () => {
    const queue = await f.queue();
    const id = await f.put(queue, { timeout: 2_592_000 });
    const reader = await f.follow(id);
    await f.takeOne(`${queue}:0`);
    await f.complete(id);
    assert.equal((await reader.next())?.name, 'completion');
    assert.doesNotMatch(f.server.stderr, /TimeoutOverflowWarning/);
  });

  test('a reader of a callback task that hangs up cancels nothing', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    const reader = await f.follow(id);
    reader.close();
    await f.takeOne(`${queue}:0`);
    assert.equal((await f.complete(id)).status, 200);
  });

  test('a task whose stream was dropped is cancelled after 10 s, unless a reader is back by then, on whichever server', async () => {
    const { server } = f;
    const second = await startServer({ url: server.databaseUrl });
    const [resumed, moved, kept, dropped] = await Promise.all([1, 2, 3, 4].map(() => running(['a'])));
    assert.ok(resumed && moved && kept && dropped);
    const all = [resumed, moved, kept, dropped];
    for (const { stream } of all) await stream.next();
    const further = await f.follow(kept.id, 'a');
    const from = performance.now();
    for (const { stream } of all) stream.close();
    const back = await f.follow(resumed.id, 'a');
    const elsewhere = await openStream(second, 'GET', `/v1/queue/${moved.id}/events`, undefined, {
      headers: { 'Last-Event-ID': 'a' },
    });

    await until(async () => (await f.status(dropped.id)) === 'cancelled');
    const waited = performance.now() - from;
    assert.ok(waited > 9000, `cancelled after ${Math.round(waited)} ms`);
    assertRefused(await f.complete(dropped.id), 409, /cancelled/);

    for (const [id, reader] of [
      [resumed.id, back],
      [moved.id, elsewhere],
      [kept.id, further],
    ] as const) {
      assert.equal(await f.status(id), 'running');
      await f.emit(id, 'n', 9);
      await f.complete(id);
      assert.deepEqual(
        (await reader.rest()).map((event) => event.name),
        ['n', 'completion'],
      );
    }
    await second.stop();
  });
});

test('a stream of a task that does not exist is a 404', async () => {
  const open = openStream(f.server, 'GET', '/v1/queue/TASK-1-0-S-250101000000-0000-000001/events');
  await assert.rejects(open, /404 .*unknown task/);
});

test('a client that hangs up before its streaming task is stored leaves none behind', async () => {
  const queue = await f.queue();
  const controller = new AbortController();
  const put = f.client(
    'POST',
    '/v1/queue/put',
    { queue, endpoint: CHAT, data: {}, response_mode: 'streaming' },
    { signal: controller.signal },
  );
  controller.abort();
  await assert.rejects(put);
  const { json } = await f.worker('GET', `/v1/queue/${queue}:0/stats`);
  assert.equal(json.total_put_cnt, 0);
});
