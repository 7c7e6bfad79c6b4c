import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { readStream } from '../support/read-stream.ts';
import { openStream } from '../support/server.ts';
import { CHAT, fixture } from './fixture.ts';

const f = fixture({ TASKLANE_FORWARD_HEADERS: ' X-Tenant,x-org ' });

const TOLD = { 'x-request-id': 'req-7', 'openai-processing-ms': '12', 'x-ratelimit-remaining-requests': '9' };
const OTHERS = { 'set-cookie': 'a=b', server: 'nginx', 'x-ratelimit-bad': 'a\r\nb: c', 'x-ratelimit-number': 7 };
const ask = (queue: string, more: object = {}, headers: Record<string, string> = {}) =>
  f.client('POST', CHAT, { model: queue, ...more }, { headers });
const told = (headers: Headers) => Object.fromEntries(Object.keys(TOLD).map((name) => [name, headers.get(name)]));

describe('what a model server says in headers', { concurrency: true }, () => {
  test('comes with the answer, whichever way and over whichever server that goes, and nothing else does', async () => {
    const headers = { ...TOLD, ...OTHERS };
    const second = await f.second();
    const complete = (id: string) => `/v1/queue/${id}/complete`;
    const result = { status_code: 200, body: {}, headers };
    const ways: ((task_id: string) => Promise<{ status: number; text: string }>)[] = [
      (id) => f.worker('POST', complete(id), result),
      (task_id) => f.worker('POST', '/v1/queue/complete', { results: [{ task_id, ...result }] }),
      (taskId) => f.worker('POST', '/v1/queue/events', { name: 'task-completion-event', payload: { taskId, result } }),
      (id) => second.request('POST', complete(id), result),
      (id) => second.request('POST', complete(id), { ...result, body: 'x'.repeat(5000) }),
    ];
    for (const way of ways) {
      const queue = await f.queue();
      const reply = ask(queue);
      const { task_id: id } = await f.takeOne(`${queue}:0`);
      const said = await way(id);
      assert.equal(said.status, 200, said.text);
      const { status, headers: got } = await reply;
      assert.equal(status, 200);
      assert.deepEqual(told(got), TOLD);
      for (const name of Object.keys(OTHERS)) assert.equal(got.get(name), null, name);
    }
  });

  test('comes with a stream’s first chunk, and is no event for those who read the task', async () => {
    const queue = await f.queue();
    const feed = await openStream(f.server, 'GET', `/v1/events?queue=${queue}&types=progress`);
    const reply = readStream(f.server, CHAT, { model: queue, stream: true }, { key: f.keys.client });
    const { task_id: id } = await f.takeOne(`${queue}:0`);
    await f.emit(id, 'response-headers', { ...TOLD, ...OTHERS, 'retry-after': '3600' });
    await f.emit(id, 'chunk', { n: 1 });
    const follower = await f.follow(id);
    assert.equal((await follower.next())?.name, 'chunk');
    follower.close();
    assert.equal(JSON.parse((await feed.next())?.data ?? '{}').data.event_name, 'chunk');
    feed.close();
    await f.complete(id, {});
    const { headers, text } = await reply;
    assert.deepEqual(told(headers), TOLD);
    assert.equal(headers.get('retry-after'), '59');
    assert.equal(text, 'data: {"n":1}\n\ndata: [DONE]\n\n');
  });

  test('comes with a stream that is one answer', async () => {
    const queue = await f.queue();
    const reply = readStream(f.server, CHAT, { model: queue, stream: true }, { key: f.keys.client });
    const { task_id: id } = await f.takeOne(`${queue}:0`);
    await f.complete(id, { n: 1 }, { headers: TOLD });
    assert.deepEqual(told((await reply).headers), TOLD);
  });

  test('of when to come back is a time that clients heed', async () => {
    const later = new Date(Date.now() + 20_000).toUTCString();
    for (const [asked, expected] of [
      ['7', /^7$/],
      ['0.2', /^1$/],
      ['0', /^1$/],
      ['3600', /^59$/],
      [later, /^(1[5-9]|20)$/],
      ['soon', /^1$/],
    ] as const) {
      const queue = await f.queue();
      const reply = ask(queue);
      const { task_id: id } = await f.takeOne(`${queue}:0`);
      await f.complete(id, { error: {} }, { status_code: 429, headers: { 'Retry-After': asked } });
      const { status, headers } = await reply;
      assert.equal(status, 429);
      assert.match(headers.get('retry-after') ?? '', expected, asked);
    }
  });
});

describe('a request’s headers', { concurrency: true }, () => {
  const sent = {
    traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    tracestate: 'a=1',
    'X-Tenant': 'blue "\u00e9"',
    'X-Other': 'no',
    Cookie: 'a=b',
  };
  const expected = { traceparent: sent.traceparent, tracestate: 'a=1', 'x-tenant': 'blue "\u00e9"' };

  test('that are named, and those of a trace, are with the task that a worker takes', async () => {
    for (const sleeps of [false, true]) {
      const queue = await f.queue();
      // A take that sleeps is handed the task with the put.
      const sleeping = sleeps ? f.takeOne(`${queue}:0`) : undefined;
      const reply = ask(queue, {}, sent);
      const task = await (sleeping ?? f.takeOne(`${queue}:0`));
      assert.deepEqual(task.headers, expected);
      await f.complete(task.task_id);
      assert.equal((await reply).status, 200);
    }
  });

  test('are not there where none is named', async () => {
    const queue = await f.queue();
    const reply = ask(queue, {}, { 'X-Other': 'no' });
    const task = await f.takeOne(`${queue}:0`);
    assert.ok(!('headers' in task));
    await f.complete(task.task_id);
    await reply;
  });
});
