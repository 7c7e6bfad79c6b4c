import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Json } from '../support/server.ts';
import { assertRefused, fixture, NO_SUCH_TASK } from './fixture.ts';

const f = fixture();

const progress = (taskId: string, more: object = {}) => ({
  name: 'task-progress-event',
  from: '',
  payload: { taskId, eventId: 'e', eventName: 'step', eventData: 1, ...more },
  context: '',
});
const completion = (taskId: string, body: unknown, more: object = {}) => ({
  name: 'task-completion-event',
  from: '',
  payload: { taskId, result: { status_code: 200, request_id: 'r', body }, ...more },
  context: '',
});
const send = (events: unknown) => f.worker('POST', '/v1/queue/events', events);

test('the event bus is told with its URL, as the caller reached the server, and its topic', async () => {
  const { json } = await f.worker('GET', '/v1/queue/eventbus');
  assert.deepEqual(json, { url: `ws://${f.server.instance}/v1/queue/eventbus`, topic: 'bella:eventbus:' });
  const tls = await f.worker('GET', '/v1/queue/eventbus', undefined, { headers: { 'X-Forwarded-Proto': 'https' } });
  assert.match(tls.json.url, /^wss:/);
});

test('a lone event is answered with its verdict', async () => {
  const queue = await f.queue();
  const id = await f.put(queue);
  await f.take(`${queue}:0`);
  for (const event of [progress(id), completion(id, 1), completion(id, 1)]) {
    const answer = await send(event);
    assert.deepEqual([answer.status, answer.json], [200, { data: [{ ok: true, taskId: id }] }]);
  }
  assert.deepEqual((await f.client('GET', `/v1/queue/${id}`)).json.result, {
    status_code: 200,
    request_id: 'r',
    body: 1,
  });
});

test("a lone event's fault is the status of the reply", async () => {
  const queue = await f.queue();
  const id = await f.put(queue);
  assertRefused(await send(progress(id)), 409, /waiting/);
  assertRefused(await send(completion(id, 1)), 409, /waiting/);
  assertRefused(await send(progress(NO_SUCH_TASK)), 404, /unknown task/);
  assertRefused(await send(completion('nonsense', 1)), 404, /unknown task/);
  await f.take(`${queue}:0`);
  assertRefused(await send(progress(id, { attempt: 2 })), 409, /another attempt/);
  assertRefused(await send(completion(id, 1, { attempt: 2 })), 409, /another attempt/);
  assertRefused(await send({ ...progress(id), name: 'task-lost-event' }), 400, undefined, 'name');
  assertRefused(await send({ name: 'task-progress-event' }), 400, undefined, 'payload');
  assertRefused(await send(progress(id, { eventName: 'completion' })), 400, /reserved/, 'payload.eventName');
  assertRefused(await send(progress(id, { eventName: 'error' })), 400, /reserved/, 'payload.eventName');
  assertRefused(await send(progress(id, { eventName: 'a\nb' })), 400, /one line/, 'payload.eventName');
  assertRefused(await send(progress(id, { eventName: '' })), 400, undefined, 'payload.eventName');
  assertRefused(await send(progress(id, { eventId: 'a\nb' })), 400, undefined, 'payload.eventId');
  assertRefused(await send(progress(id, { eventId: 'a\rb' })), 400, undefined, 'payload.eventId');
  assertRefused(await send(progress(id, { eventId: 'a\0b' })), 400, undefined, 'payload.eventId');
  assertRefused(
    await send({ name: 'task-completion-event', payload: { taskId: id, result: { status_code: 199, body: 1 } } }),
    400,
    undefined,
    'payload.result.status_code',
  );
  assertRefused(
    await send({ name: 'task-completion-event', payload: { taskId: id, result: { status_code: 200 } } }),
    400,
    undefined,
    'payload.result.body',
  );
  assert.equal(await f.status(id), 'running');
});

test('in an array each event has its own verdict, in order', async () => {
  const queue = await f.queue();
  const [a, b] = [await f.put(queue), await f.put(queue)];
  await f.take(`${queue}:0`);
  const events = [
    progress(a),
    progress(b),
    completion(NO_SUCH_TASK, 1),
    { name: 'nonsense', payload: { taskId: a } },
    7,
    null,
    progress(a, { eventName: 'error' }),
    completion(a, 'done'),
    progress(a),
    completion(a, 'done'),
    completion(a, 'other'),
  ];
  const answer = await send(events);
  assert.equal(answer.status, 200, answer.text);
  assert.deepEqual(
    answer.json.data.map((verdict: Json) => [verdict.taskId, verdict.ok]),
    [
      [a, true],
      [b, false],
      [NO_SUCH_TASK, false],
      [a, false],
      ['', false],
      ['', false],
      [a, false],
      [a, true],
      [a, false],
      [a, true],
      [a, false],
    ],
  );
  for (const verdict of answer.json.data) assert.equal(typeof verdict.message, verdict.ok ? 'undefined' : 'string');
});

test('an empty array has no verdicts, and more than 1,000 events are refused', async () => {
  assert.deepEqual((await send([])).json, { data: [] });
  assertRefused(await send(Array(1001).fill(progress(NO_SUCH_TASK))), 400);
  assertRefused(await send('"text"'), 400);
  assertRefused(await send('[{]'), 400, /position 2/);
});
