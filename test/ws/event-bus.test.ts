import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { after, before, describe, test } from 'node:test';
import WebSocket from 'ws';
import { type Json, openStream, type Server, startServer } from '../support/server.ts';

const CHAT = '/v1/chat/completions';
const NO_SUCH_TASK = 'TASK-1-0-C-250101000000-0000-000001';

let server: Server;
let workerKey: string;
let clientKey: string;
const sockets: WebSocket[] = [];

before(async () => {
  server = await startServer({ env: { TASKLANE_MAX_ANSWER_BYTES: '2000000' } });
  [workerKey, clientKey] = await Promise.all([server.key('worker'), server.key('client')]);
  await server.request('POST', '/v1/queue/register', { queue: 'q', endpoint: CHAT });
});
after(async () => {
  for (const socket of sockets) socket.terminate();
  await server?.stop();
});

const address = (path = '/v1/queue/eventbus') => server.url.replace('http', 'ws') + path;
const bearer = (key: string) => ({ headers: { Authorization: `Bearer ${key}` } });

const open = async (protocols: string[] = [], options: WebSocket.ClientOptions = bearer(workerKey)) => {
  const socket = new WebSocket(address(), protocols, options);
  sockets.push(socket);
  await once(socket, 'open');
  return socket;
};

/** Sends all frames at once and gives as many answers, in the order in which they come. */
const ask = (socket: WebSocket, frames: (string | object)[]): Promise<Json[]> =>
  new Promise((resolve, reject) => {
    const answers: Json[] = [];
    const onMessage = (data: WebSocket.RawData) => {
      answers.push(JSON.parse(String(data)));
      if (answers.length < frames.length) return;
      socket.off('message', onMessage);
      resolve(answers);
    };
    socket.on('message', onMessage);
    socket.once('close', (code) => reject(new Error(`the socket closed with ${code}`)));
    for (const frame of frames) socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  });

const putAndTake = async (level: number, more: object = {}): Promise<string> => {
  await server.request('POST', '/v1/queue/put', { queue: 'q', endpoint: CHAT, level, data: {}, ...more });
  return take(level);
};
const take = async (level: number): Promise<string> => {
  const { json } = await server.request('POST', '/v1/queue/take', { queues: [`q:${level}`], size: 1, wait: 10 });
  return json[`q:${level}`][0].task_id;
};
const task = async (id: string) => (await server.request('GET', `/v1/queue/${id}`)).json;

const progress = (taskId: string, eventData: unknown = 1) => ({
  name: 'task-progress-event',
  from: '',
  payload: { taskId, eventId: 'e', eventName: 'step', eventData },
  context: '',
});
const completion = (taskId: string, body: unknown = 'done') => ({
  name: 'task-completion-event',
  from: '',
  payload: { taskId, result: { status_code: 200, request_id: '', body } },
  context: '',
});

describe('opening the event bus', () => {
  test('with the key in the Authorization header', async () => {
    assert.equal((await open()).protocol, '');
  });

  test('with the key as a subprotocol beside tasklane, which is the one that is chosen', async () => {
    const socket = await open(['tasklane', `bearer.${workerKey}`], {});
    assert.equal(socket.protocol, 'tasklane');
    assert.deepEqual(await ask(socket, [progress(NO_SUCH_TASK)]), [
      { ok: false, taskId: NO_SUCH_TASK, message: 'unknown task' },
    ]);
    assert.equal((await open([`bearer.${workerKey}`, 'tasklane'], {})).protocol, 'tasklane');
  });

  test('with an admin key', async () => {
    await open([], bearer(server.adminKey));
  });

  test('with the key of a client, whose events are refused', async () => {
    const socket = await open([], bearer(clientKey));
    const id = await putAndTake(10);
    const message = 'a client key may not send events';
    assert.deepEqual(await ask(socket, [progress(id), completion(id), progress('nonsense'), '{']), [
      { ok: false, taskId: id, message },
      { ok: false, taskId: id, message },
      { ok: false, taskId: 'nonsense', message: 'unknown task nonsense' },
      { ok: false, taskId: '', message: "malformed JSON at position 1: Expected property name or '}'" },
    ]);
    assert.equal((await task(id)).status, 'running');
  });

  const refusals: [string, () => [string[], WebSocket.ClientOptions, string?], number][] = [
    ['without a key', () => [[], {}], 401],
    ['with tasklane alone', () => [['tasklane'], {}], 401],
    ['with an unknown key', () => [[], bearer('sk-nobody')], 401],
    ['with an unknown key as a subprotocol', () => [['tasklane', 'bearer.sk-nobody'], {}], 401],
    ['on another path', () => [[], bearer(workerKey), '/v1/queue/other'], 404],
  ];
  for (const [how, options, status] of refusals) {
    test(`${how} is refused with ${status} in the envelope`, async () => {
      const [protocols, clientOptions, path] = options();
      const socket = new WebSocket(address(path), protocols, clientOptions);
      const [, response] = (await once(socket, 'unexpected-response')) as [unknown, IncomingMessage];
      let text = '';
      for await (const chunk of response) text += chunk;
      assert.equal(response.statusCode, status);
      const { code, message, timestamp } = JSON.parse(text);
      assert.equal(code, status);
      assert.equal(typeof message, 'string');
      assert.equal(typeof timestamp, 'number');
      assert.ok(response.headers['x-bella-request-id']);
      assert.ok(response.headers['x-bella-trace-id']);
      socket.on('error', () => undefined);
      socket.terminate();
    });
  }

  test('the server goes on after all these refusals', async () => {
    assert.equal((await server.request('GET', '/health')).status, 200);
  });
});

describe('frames on the event bus', () => {
  test('are each answered, in order', async () => {
    const socket = await open();
    const id = await putAndTake(1);
    const answers = await ask(socket, [
      progress(id),
      progress(NO_SUCH_TASK),
      progress('nonsense'),
      completion(id, 'done'),
      progress(id),
      completion(id, 'done'),
      completion(id, 'other'),
    ]);
    assert.deepEqual(
      answers.map(({ ok, taskId }) => [ok, taskId]),
      [
        [true, id],
        [false, NO_SUCH_TASK],
        [false, 'nonsense'],
        [true, id],
        [false, id],
        [true, id],
        [false, id],
      ],
    );
    for (const { ok, message } of answers) assert.equal(typeof message, ok ? 'undefined' : 'string');
    assert.equal((await task(id)).result.body, 'done');
  });

  test('that are malformed are answered ok:false, and the socket lives on', async () => {
    const socket = await open();
    const id = await putAndTake(2);
    const answers = await ask(socket, [
      '',
      '{',
      'null',
      '[]',
      '7',
      '{"name":"nobody","payload":{}}',
      `{"name":"task-progress-event","payload":{"taskId":"${id}"}}`,
      { ...progress(id), payload: { taskId: id, eventName: 'completion', eventData: 1 } },
      { ...progress(id), payload: { taskId: 7, eventName: 'x', eventData: 1 } },
      progress(id),
    ]);
    assert.deepEqual(
      answers.map((answer) => answer.ok),
      [...Array(9).fill(false), true],
    );
    assert.match(answers[1].message, /malformed JSON at position 1/);
    assert.equal(answers[6].taskId, id);
    assert.equal(answers[8].taskId, '');
  });

  test('ignore to, from, context and what else they hold', async () => {
    const socket = await open();
    const id = await putAndTake(3);
    const frame = { ...completion(id), to: 'bella:eventbus:10.9.8.7:1', from: 'x', context: { a: 1 }, more: true };
    assert.deepEqual(await ask(socket, [frame]), [{ ok: true, taskId: id }]);
  });

  test('keep progress before completion, 500 of them at once over several tasks', async () => {
    const socket = await open();
    const ids: string[] = [];
    for (let n = 0; n < 10; n++) ids.push(await putAndTake(4));
    const frames = ids.flatMap((id) => [...Array.from({ length: 49 }, (_, n) => progress(id, n)), completion(id)]);
    // Dealt out in turn, so that the frames of all tasks are mixed.
    const mixed = Array.from({ length: 500 }, (_, n) => frames[(n % 10) * 50 + Math.floor(n / 10)] as object);
    const answers = await ask(socket, mixed);
    assert.ok(
      answers.every((answer) => answer.ok),
      JSON.stringify(answers.find((answer) => !answer.ok)),
    );
    for (const id of ids) {
      const events = await (await openStream(server, 'GET', `/v1/queue/${id}/events`)).rest();
      assert.deepEqual(
        events.slice(0, -1).map((event) => Number(event.data)),
        Array.from({ length: 49 }, (_, n) => n),
      );
      assert.equal(events.at(-1)?.name, 'completion');
    }
  });

  test('go to a blocking client and to a stream', async () => {
    const socket = await open();
    const blocking = server.request('POST', '/v1/queue/put', {
      queue: 'q',
      endpoint: CHAT,
      level: 5,
      data: {},
      response_mode: 'blocking',
    });
    const answered = await take(5);
    await ask(socket, [completion(answered, { n: 1 })]);
    assert.deepEqual((await blocking).json, { n: 1 });

    const body = { queue: 'q', endpoint: CHAT, level: 6, data: {}, response_mode: 'streaming' };
    const stream = await openStream(server, 'POST', '/v1/queue/put', body);
    const streamed = await take(6);
    await ask(socket, [progress(streamed, 'a'), progress(streamed, 'b'), completion(streamed)]);
    assert.deepEqual(
      (await stream.rest()).map(({ name, data }) => [name, name === 'step' ? data : '']),
      [
        ['step', '"a"'],
        ['step', '"b"'],
        ['completion', ''],
      ],
    );
  });

  test('of a megabyte come through whole', async () => {
    const socket = await open();
    const id = await putAndTake(7);
    const text = 'é'.repeat(500_000);
    assert.deepEqual(await ask(socket, [progress(id, { text }), completion(id, { text })]), [
      { ok: true, taskId: id },
      { ok: true, taskId: id },
    ]);
    assert.ok((await task(id)).result.body.text === text);
  });

  test('larger than a body may be close the socket, and nothing else', async () => {
    const socket = await open();
    socket.on('error', () => undefined);
    const id = await putAndTake(8);
    socket.send(JSON.stringify(completion(id, 'x'.repeat(2_000_001))));
    const [code] = await once(socket, 'close');
    assert.equal(code, 1009);
    assert.equal((await task(id)).status, 'running');
    assert.deepEqual(await ask(await open(), [completion(id)]), [{ ok: true, taskId: id }]);
  });

  test('of a worker that hangs up in the middle leave the server well', async () => {
    const id = await putAndTake(9);
    const socket = await open();
    for (let n = 0; n < 300; n++) socket.send(JSON.stringify(progress(id, n)));
    socket.terminate();
    assert.deepEqual(await ask(await open(), [completion(id)]), [{ ok: true, taskId: id }]);
  });
});

test('a socket whose key was revoked is closed with 1008, and its frames are not applied', async () => {
  const made = (await server.request('POST', '/v1/keys', { role: 'worker' })).json;
  const id = await putAndTake(11);
  const socket = await open([], bearer(made.key));
  assert.deepEqual(await ask(socket, [progress(id)]), [{ ok: true, taskId: id }]);
  const closed = once(socket, 'close');
  assert.equal((await server.request('DELETE', `/v1/keys/${made.id}`)).status, 204);
  socket.send(JSON.stringify(completion(id)));
  assert.equal((await closed)[0], 1008);
  assert.equal((await task(id)).status, 'running');
});

test('a server that stops closes its sockets with 1001', async () => {
  const other = await startServer();
  const socket = new WebSocket(`${other.url.replace('http', 'ws')}/v1/queue/eventbus`, bearer(other.adminKey));
  await once(socket, 'open');
  const closed = once(socket, 'close');
  const exit = await other.stop();
  assert.equal((await closed)[0], 1001);
  assert.deepEqual(exit, { code: 0, signal: null });
});
