import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { createRecorder } from '../support/feed.ts';
import { readStream, type StreamAnswer } from '../support/read-stream.ts';
import { until } from '../support/server.ts';
import { assertOpenAiError, CHAT, fixture } from './fixture.ts';

const f = fixture();
const psql = createRecorder(() => f.server.databaseUrl);
after(psql.close);

const RESPONSES = '/v1/responses';
const ask = (path: string, body: object, options = {}): Promise<StreamAnswer> =>
  readStream(f.server, path, { stream: true, ...body }, { key: f.keys.client, ...options });

/** A stream whose worker has taken its task. */
async function begun(path = CHAT, settings: object = {}, options = {}) {
  const queue = await f.queue(path, settings);
  const answer = ask(path, { model: queue }, options);
  const task = await f.takeOne(`${queue}:0`);
  return { queue, answer, id: task.task_id as string };
}

/** The error record of a stream that was cut, which comes last, and what came before. */
function brokenOff(answer: StreamAnswer) {
  assert.equal(answer.status, 200);
  assert.equal(answer.isWhole, false, 'it ends well');
  const [before, record = ''] = answer.text.split(/\n\n(?=data: \{"error":|event: error\n)/);
  assert.ok(record.endsWith('\n\n'), answer.text);
  assert.ok(!answer.text.includes('[DONE]'), answer.text);
  const told = JSON.parse(record.slice(record.indexOf('{')));
  return { before, error: told.error ?? told };
}

describe('a streamed answer', { concurrency: true }, () => {
  test('is what the worker reports, a record an event, and ends with [DONE]', async () => {
    const { answer, id } = await begun();
    const data = '{ "a":\r\n 1.0,\n\t"b":"\\n \\u2028 x" }';
    const event = `{"name":"task-progress-event","payload":{"taskId":"${id}","eventName":"e","eventId":"i","eventData":${data}}}`;
    await f.worker('POST', '/v1/queue/events', event);
    for (const chunk of [{ type: 'x', n: 1 }, 'text', null]) await f.emit(id, 'chunk', chunk);
    await f.complete(id, { not: 'sent' });
    const { status, headers, text } = await answer;
    assert.equal(status, 200);
    assert.equal(headers.get('content-type'), 'text/event-stream; charset=utf-8');
    assert.equal(headers.get('cache-control'), 'no-cache');
    assert.equal(headers.get('x-task-id'), id);
    assert.match(headers.get('x-request-id') ?? '', /^req_[0-9a-f]{32}$/);
    assert.equal(
      text,
      'data: {"a":1.0,"b":"\\n \\u2028 x"}\n\ndata: {"type":"x","n":1}\n\ndata: "text"\n\ndata: [DONE]\n\n',
    );
  });

  test('of the Responses API names its events by their type, else as the worker does, and has no [DONE]', async () => {
    const { answer, id } = await begun(RESPONSES);
    await f.emit(id, 'chunk', { type: 'response.created', sequence_number: 0 });
    await f.emit(id, 'chunk', { type: 'two\nlines' });
    await f.emit(id, 'chunk', { type: 7 });
    await f.emit(id, 'chunk', 'text');
    await f.complete(id, {});
    assert.equal(
      (await answer).text,
      'event: response.created\ndata: {"type":"response.created","sequence_number":0}\n\n' +
        'event: chunk\ndata: {"type":"two\\nlines"}\n\nevent: chunk\ndata: {"type":7}\n\nevent: chunk\ndata: "text"\n\n',
    );
  });

  test('without chunks is the body of the completion', async () => {
    for (const [path, expected] of [
      [CHAT, 'data: {"a":[1.0]}\n\ndata: [DONE]\n\n'],
      ['/v1/completions', 'data: {"a":[1.0]}\n\ndata: [DONE]\n\n'],
      [RESPONSES, 'event: completion\ndata: {"a":[1.0]}\n\n'],
    ] as const) {
      const { answer, id } = await begun(path);
      await f.worker('POST', `/v1/queue/${id}/complete`, '{"status_code":200,"body":{ "a": [1.0] }}');
      assert.equal((await answer).text, expected);
    }
  });

  test('sends nothing before its first chunk, nor for an event that has no data', async () => {
    const { answer, id } = await begun();
    let opened = false;
    void answer.then(() => {
      opened = true;
    });
    await f.worker('POST', '/v1/queue/events', {
      name: 'task-progress-event',
      payload: { taskId: id, eventName: 'begun' },
    });
    assert.equal(await f.status(id), 'running');
    assert.equal(opened, false);
    await f.complete(id, { error: { message: 'no' } }, { status_code: 400 });
    const { status, headers, json } = await answer;
    assert.deepEqual([status, json], [400, { error: { message: 'no' } }]);
    assert.match(headers.get('content-type') ?? '', /^application\/json/);
  });

  test('that expires is a 408 before its first chunk, and an error in the stream after it', async () => {
    const [early, late] = [await begun(), await begun()];
    await f.emit(late.id, 'chunk', 1);
    const past =
      'update tasklane.running set expires_at = now() where id in (tasklane.parse_task_id($1), tasklane.parse_task_id($2))';
    await psql.query(past, [early.id, late.id]);
    assertOpenAiError(await early.answer, 408, 'request_timeout');
    assert.equal((await early.answer).headers.get('x-should-retry'), 'false');
    assert.equal(brokenOff(await late.answer).error.code, 'request_timeout');
  });

  test('that fails in the middle is cut after an error, without [DONE]', async () => {
    const failures: [object | null, string | null][] = [
      [{ error: { message: 'out of memory', type: 'server_error', param: null, code: 'oom', more: 1 } }, 'oom'],
      [{ detail: 'no envelope' }, 'worker_failed'],
      [null, 'worker_failed'],
    ];
    for (const path of [CHAT, RESPONSES])
      for (const [body, code] of failures) {
        const { answer, id } = await begun(path);
        await f.emit(id, 'chunk', { n: 1 });
        await f.complete(id, body, { status_code: 500 });
        const { before, error } = brokenOff(await answer);
        assert.match(before ?? '', /data: \{"n":1\}$/);
        assert.equal(error.code, code);
        if (path === CHAT && code === 'oom') assert.deepEqual(error, (body as { error: object }).error);
        if (path === CHAT) assert.deepEqual(Object.keys(error).slice(0, 4), ['message', 'type', 'param', 'code']);
        else assert.deepEqual(Object.keys(error), ['type', 'code', 'message', 'param', 'sequence_number']);
      }
    const withoutCode = await begun(RESPONSES);
    await f.emit(withoutCode.id, 'chunk', { type: 'response.created', sequence_number: 6 });
    const said = { error: { message: 'no', type: 'server_error', code: null } };
    await f.complete(withoutCode.id, said, { status_code: 502 });
    const told = { type: 'error', code: 'server_error', message: 'no', param: null, sequence_number: 7 };
    assert.deepEqual(brokenOff(await withoutCode.answer).error, told);
    const cancelled = await begun();
    await f.emit(cancelled.id, 'chunk', 1);
    await f.client('POST', `/v1/queue/${cancelled.id}/cancel`);
    assert.equal(brokenOff(await cancelled.answer).error.code, 'request_cancelled');
    const dead = await begun(CHAT, { max_attempts: 1 });
    await f.emit(dead.id, 'chunk', 1);
    await f.worker('POST', `/v1/queue/${dead.id}/release`);
    assert.equal(brokenOff(await dead.answer).error.code, 'attempts_exhausted');
  });
});

describe('a streamed response', { concurrency: true }, () => {
  const ends: [string, (id: string, queue: string) => Promise<unknown>][] = [
    ['completes', (id) => f.complete(id, {})],
    ['fails', (id) => f.complete(id, {}, { status_code: 502 })],
    ['is cancelled', (id) => f.client('POST', `/v1/queue/${id}/cancel`)],
    ['dies', (id) => f.worker('POST', `/v1/queue/${id}/release`, { answer: { status_code: 500, body: 1 } })],
  ];
  for (const type of ['response.completed', 'response.incomplete', 'response.failed'])
    test(`whose last event was ${type} ends well and says no more, however its task ends`, async () => {
      for (const [how, end] of ends) {
        const { queue, answer, id } = await begun(RESPONSES, { max_attempts: 1 });
        await f.emit(id, 'chunk', { type, response: {} });
        await end(id, queue);
        const { text, isWhole } = await answer;
        assert.deepEqual([text, isWhole], [`event: ${type}\ndata: {"type":"${type}","response":{}}\n\n`, true], how);
      }
    });

  test('that passed an error on as its last event is cut without another one', async () => {
    const { answer, id } = await begun(RESPONSES);
    const event = { type: 'error', code: 'c', message: 'm', param: null, sequence_number: 1 };
    await f.emit(id, 'chunk', event);
    await f.complete(id, { error: event }, { status_code: 502 });
    const { text, isWhole } = await answer;
    assert.deepEqual([text, isWhole], [`event: error\ndata: ${JSON.stringify(event)}\n\n`, false]);
  });
});

describe('another attempt', { concurrency: true }, () => {
  const release = (id: string) => f.worker('POST', `/v1/queue/${id}/release`, { delay_seconds: 0 });

  test('before the first chunk is not noticed', async () => {
    const { queue, answer, id } = await begun();
    await release(id);
    assert.equal((await f.takeOne(`${queue}:0`)).attempt, 2);
    await f.emit(id, 'chunk', 2);
    await f.complete(id);
    assert.equal((await answer).text, 'data: 2\n\ndata: [DONE]\n\n');
  });

  test('that begins again after chunks were sent ends the stream with an error, and its task', async () => {
    const { queue, answer, id } = await begun();
    await f.emit(id, 'chunk', 1);
    await release(id);
    await f.takeOne(`${queue}:0`);
    await f.emit(id, 'chunk', 2);
    const { before, error } = brokenOff(await answer);
    assert.equal(before, 'data: 1');
    assert.equal(error.code, 'stream_broken_off');
    await until(async () => (await f.status(id)) === 'cancelled');
  });

  test('that only completes after chunks of another were sent is an error as well', async () => {
    const { queue, answer, id } = await begun();
    await f.emit(id, 'chunk', 1);
    await release(id);
    await f.takeOne(`${queue}:0`);
    await f.complete(id, { whole: true });
    const { before, error } = brokenOff(await answer);
    assert.equal(before, 'data: 1');
    assert.equal(error.code, 'stream_broken_off');
    assert.equal(await f.status(id), 'succeeded');
  });

  test('is known on another server than the one that heard of the first', async () => {
    const { queue, answer, id } = await begun();
    await f.emit(id, 'chunk', 1);
    await release(id);
    await f.takeOne(`${queue}:0`);
    const payload = { taskId: id, eventName: 'chunk', eventData: 2 };
    await (await f.second()).request('POST', '/v1/queue/events', { name: 'task-progress-event', payload });
    assert.equal(brokenOff(await answer).error.code, 'stream_broken_off');
  });
});

describe('streams over two servers', { concurrency: true }, () => {
  test('carry every chunk once and in order, whichever server hears of it', async () => {
    const queue = await f.queue();
    const STREAMS = 20;
    const CHUNKS = 60;
    const second = await f.second();
    const answers = Array.from({ length: STREAMS }, (_, n) => {
      const server = n % 2 ? second : f.server;
      return server.request('POST', CHAT, { model: queue, n, stream: true }, { key: f.keys.client });
    });
    for (let done = 0; done < STREAMS; ) {
      const tasks = await f.take(`${queue}:0`, { size: STREAMS, wait: 10 });
      await Promise.all(
        tasks.map(async ({ task_id: taskId, data: { n } }) => {
          for (let i = 0; i < CHUNKS; i += 3) {
            const server = (n + i) % 2 ? second : f.server;
            const events = [i, i + 1, i + 2].map((chunk) => ({
              name: 'task-progress-event',
              payload: { taskId, eventName: 'chunk', eventData: [n, chunk] },
            }));
            const told = await server.request('POST', '/v1/queue/events', events);
            assert.equal(told.status, 200, told.text);
          }
          const server = n % 3 ? second : f.server;
          await server.request('POST', `/v1/queue/${taskId}/complete`, { status_code: 200, body: null });
        }),
      );
      done += tasks.length;
    }
    for (const [n, answer] of (await Promise.all(answers)).entries()) {
      const chunks = Array.from({ length: CHUNKS }, (_, chunk) => `data: [${n},${chunk}]\n\n`);
      assert.equal(answer.text, `${chunks.join('')}data: [DONE]\n\n`);
    }
  });
});

describe('a stream under an Idempotency-Key', { concurrency: true }, () => {
  test('can be asked for again when its connection broke, and comes from its first chunk', async () => {
    const hangUp = new AbortController();
    const key = { headers: { 'Idempotency-Key': 'a stream' } };
    const { queue, answer, id } = await begun(CHAT, {}, { ...key, signal: hangUp.signal });
    const gone = assert.rejects(answer);
    await f.emit(id, 'chunk', 1);
    hangUp.abort();
    await gone;
    const again = ask(CHAT, { model: queue }, key);
    await f.emit(id, 'chunk', 2);
    await f.complete(id);
    assert.equal((await again).text, 'data: 1\n\ndata: 2\n\ndata: [DONE]\n\n');
  });
});
