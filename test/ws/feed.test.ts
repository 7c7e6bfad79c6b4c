import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, describe, test } from 'node:test';
import WebSocket from 'ws';
import { createRecorder } from '../support/feed.ts';
import { type Json, type Server, startServer } from '../support/server.ts';

const CHAT = '/v1/chat/completions';
const NO_SUCH_TASK = 'TASK-1-0-C-250101000000-0000-000001';

let server: Server;
let keys: Record<'client' | 'other' | 'worker' | 'admin', string>;
const sockets: WebSocket[] = [];
const psql = createRecorder(() => server.databaseUrl);

before(async () => {
  server = await startServer();
  const [client, other, worker] = await Promise.all([
    server.key('client'),
    server.key('client', 'other'),
    server.key('worker'),
  ]);
  keys = { client, other, worker, admin: server.adminKey };
  for (const queue of ['q', 'r']) await server.request('POST', '/v1/queue/register', { queue, endpoint: CHAT });
});
after(async () => {
  for (const socket of sockets) socket.terminate();
  await psql.close();
  await server?.stop();
});

const put = async (queue = 'q', key = keys.client): Promise<string> =>
  (await server.request('POST', '/v1/queue/put', { queue, endpoint: CHAT, data: {} }, { key })).json.data;

/** Opens the event bus; `next` gives the frames that come, in order. */
async function open(key: string) {
  const socket = new WebSocket(`${server.url.replace('http', 'ws')}/v1/queue/eventbus`, {
    headers: { Authorization: `Bearer ${key}` },
  });
  sockets.push(socket);
  const frames: Json[] = [];
  let rouse = () => {};
  socket.on('message', (frame) => {
    frames.push(JSON.parse(String(frame)));
    rouse();
  });
  await once(socket, 'open');
  const next = async (): Promise<Json> => {
    while (frames.length === 0) {
      await new Promise<void>((resolve) => {
        rouse = resolve;
      });
    }
    return frames.shift();
  };
  const send = (frame: object | string) => socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  return {
    socket,
    next,
    send,
    /** Sends a frame and gives the next that comes. */
    ask: (frame: object | string) => {
      send(frame);
      return next();
    },
    subscribe: (payload?: object) => ({ name: 'subscribe', ...(payload && { payload }) }),
  };
}
const SUBSCRIBED = { ok: true, name: 'subscribe' };

test('a client follows the events of its tenant in frames with their cursor', async () => {
  const bus = await open(keys.client);
  const [mine, foreign] = [await put(), await put('q', keys.other)];
  assert.deepEqual(await bus.ask(bus.subscribe()), SUBSCRIBED);
  await psql.record([foreign, mine], 'started', { attempt: 1, status: 'running', data: { a: 1 } });
  const { name, id, data, ...rest } = await bus.next();
  assert.deepEqual([name, rest], ['event', {}]);
  assert.match(id, /^\d+$/);
  const { timestamp, ...event } = data;
  assert.ok(Math.abs(timestamp - Date.now()) < 60_000);
  assert.deepEqual(event, {
    type: 'started',
    task_id: mine,
    queue: 'q',
    level: 0,
    status: 'running',
    attempt: 1,
    data: { a: 1 },
  });
});

test('filters hold, and last_event_id goes on after that event', async () => {
  const bus = await open(keys.client);
  const [one, two] = [await put('q'), await put('r')];
  await bus.ask(bus.subscribe({ types: 'started,dead', queue: 'r', task_id: two, batch_id: null }));
  await psql.record([one, two], 'submitted', { attempt: 1 });
  await psql.record([one, two], 'started', { attempt: 2 });
  await psql.record([one, two], 'dead', { attempt: 3 });
  const first = await bus.next();
  assert.deepEqual([first.data.task_id, first.data.attempt], [two, 2]);
  assert.equal((await bus.next()).data.attempt, 3);
  for (const last of [first.id, Number(first.id)]) {
    const again = await open(keys.client);
    assert.deepEqual(await again.ask(again.subscribe({ last_event_id: last, task_id: two })), SUBSCRIBED);
    assert.equal((await again.next()).data.attempt, 3);
  }
});

test('a second subscribe replaces the first, one that is refused does not, and unsubscribe ends it', async () => {
  const bus = await open(keys.client);
  const [one, two] = [await put('q'), await put('r')];
  await bus.ask(bus.subscribe({ queue: 'q' }));
  assert.equal((await bus.ask(bus.subscribe({ queue: 'nowhere' }))).ok, false);
  await psql.record([two, one], 'started', { attempt: 1 });
  assert.equal((await bus.next()).data.task_id, one);
  assert.deepEqual(await bus.ask(bus.subscribe({ queue: 'r' })), SUBSCRIBED);
  await psql.record([one, two], 'started', { attempt: 2 });
  assert.deepEqual((await bus.next()).data.task_id, two);
  assert.deepEqual(await bus.ask({ name: 'unsubscribe' }), { ok: true, name: 'unsubscribe' });
  await psql.record([one, two], 'started', { attempt: 3 });
  const other = await open(keys.client);
  await other.ask(other.subscribe({ last_event_id: 0, types: 'started', task_id: two }));
  while ((await other.next()).data.attempt !== 3);
  assert.deepEqual(await bus.ask({ name: 'unsubscribe' }), { ok: true, name: 'unsubscribe' });
});

describe('a subscribe is refused', () => {
  const cases: [string, keyof typeof keys, () => Promise<object>, RegExp][] = [
    ['from a worker', 'worker', async () => ({}), /worker key may not subscribe/],
    ['with an unknown type', 'client', async () => ({ types: 'started,begun' }), /types: unknown type "begun"/],
    ['with an unknown queue', 'client', async () => ({ queue: 'nowhere' }), /unknown queue "nowhere"/],
    ['with an unknown task', 'client', async () => ({ task_id: NO_SUCH_TASK }), /unknown task/],
    ['with a malformed task', 'admin', async () => ({ task_id: 'x' }), /unknown task/],
    ["with another tenant's task", 'client', async () => ({ task_id: await put('q', keys.other) }), /unknown task/],
    ['with a malformed id', 'client', async () => ({ last_event_id: 'x' }), /last_event_id/],
    [
      'with an id that no event had',
      'client',
      async () => ({ last_event_id: 999_999_999_999 }),
      /not the id of an event/,
    ],
    ['with something else for a queue', 'client', async () => ({ queue: 7 }), /queue/],
  ];
  for (const [how, role, payload, message] of cases) {
    test(how, async () => {
      const bus = await open(keys[role]);
      const { ok, name, message: told, ...rest } = await bus.ask(bus.subscribe(await payload()));
      assert.deepEqual([ok, name, rest], [false, 'subscribe', {}]);
      assert.match(told, message);
    });
  }

  test('and the socket lives on', async () => {
    const bus = await open(keys.client);
    await bus.ask({ name: 'subscribe', payload: 7 });
    assert.deepEqual(await bus.ask(bus.subscribe()), SUBSCRIBED);
  });
});

test('an admin sends events and follows on one socket; frames are answered in their order', async () => {
  const bus = await open(keys.admin);
  const id = await put('r');
  await server.request('POST', '/v1/queue/take', { queues: ['r:0'], size: 100 });
  const progress = { name: 'task-progress-event', payload: { taskId: id, eventName: 'subscribe', eventData: 1 } };
  for (const frame of [progress, bus.subscribe({ types: 'dead' }), progress, { name: 'unsubscribe' }, progress])
    bus.send(frame);
  const answers: Json[] = [];
  while (answers.length < 5) answers.push(await bus.next());
  assert.deepEqual(
    answers.map((answer) => [answer.ok, answer.name ?? answer.taskId]),
    [
      [true, id],
      [true, 'subscribe'],
      [true, id],
      [true, 'unsubscribe'],
      [true, id],
    ],
  );
});

test('a reader that does not read finds all when it does', async () => {
  const bus = await open(keys.client);
  const id = await put();
  await bus.ask(bus.subscribe({ task_id: id }));
  const quick = await open(keys.client);
  await quick.ask(quick.subscribe({ task_id: id, types: 'dead' }));
  bus.socket.pause();
  const count = 2000;
  for (let n = 0; n < count; n += 500)
    await psql.record(Array(500).fill(id), 'progress', { attempt: n, data: 'x'.repeat(5000) });
  await psql.record([id], 'dead', { attempt: count });
  await quick.next();
  bus.socket.resume();
  for (let n = 0; n <= count; n++) assert.equal((await bus.next()).data.attempt, n - (n % 500));
});

test('a socket whose key was revoked is closed with 1008 before the next event', async () => {
  const made = (await server.request('POST', '/v1/keys', { role: 'client' })).json;
  const bus = await open(made.key);
  const id = await put();
  await bus.ask(bus.subscribe({ task_id: id }));
  const closed = once(bus.socket, 'close');
  await server.request('DELETE', `/v1/keys/${made.id}`);
  await psql.record([id]);
  assert.equal((await closed)[0], 1008);
});
