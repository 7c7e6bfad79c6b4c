import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import WebSocket from 'ws';
import { fixture } from '../http/fixture.ts';
import { type Json, until } from '../support/server.ts';

const f = fixture();

/** Opens the event bus; `ask` sends a frame and gives its answer. */
async function open(key = f.keys.worker) {
  const socket = new WebSocket(`${f.server.url.replace('http', 'ws')}/v1/queue/eventbus`, {
    headers: { Authorization: `Bearer ${key}` },
  });
  await once(socket, 'open');
  const ask = async (name: string, payload: object): Promise<Json> => {
    socket.send(JSON.stringify({ name, payload }));
    const [data] = await once(socket, 'message');
    return JSON.parse(String(data));
  };
  return { socket, ask };
}

async function takeMany(queue: string, count: number): Promise<Json[]> {
  for (let n = 0; n < count; n++) await f.put(queue);
  return f.take(`${queue}:0`, { size: count, lease_seconds: 600 });
}

const hold = ({ task_id: taskId, attempt }: Json) => ['task-hold-event', { taskId, attempt }] as const;

test('a socket that closes gives back at once what its worker holds and has not begun, without counting an attempt', async () => {
  const queue = await f.queue();
  const [held, begun, reported, answered, silent] = await takeMany(queue, 5);
  const { socket, ask } = await open();
  for (const task of [held, begun, reported, answered])
    assert.deepEqual(await ask(...hold(task)), { ok: true, taskId: task.task_id });
  await ask('task-begin-event', { taskId: begun.task_id });
  await ask('task-progress-event', { taskId: reported.task_id, eventName: 'chunk', eventData: 1 });
  await ask('task-completion-event', { taskId: answered.task_id, result: { status_code: 200, body: 1 } });
  const waiting = f.takeOne(`${queue}:0`, { wait: 30 });
  socket.terminate();
  const again = await waiting;
  assert.deepEqual([again.task_id, again.attempt], [held.task_id, 1]);
  assert.deepEqual(await f.take(`${queue}:0`, { size: 10 }), []);
  assert.deepEqual(await Promise.all([begun, reported, answered, silent].map((task) => f.status(task.task_id))), [
    'running',
    'running',
    'succeeded',
    'running',
  ]);
});

test('what is sent just before the close still counts', async () => {
  const queue = await f.queue();
  const [first, second] = await takeMany(queue, 2);
  const { socket, ask } = await open();
  for (const task of [first, second]) await ask(...hold(task));
  socket.send(JSON.stringify({ name: 'task-begin-event', payload: { taskId: first.task_id } }));
  socket.close();
  assert.equal((await f.takeOne(`${queue}:0`, { wait: 30 })).task_id, second.task_id);
  assert.equal(await f.status(first.task_id), 'running');
});

test('an attempt that is held by somebody else by now is not given back', async () => {
  const queue = await f.queue();
  const [task] = await takeMany(queue, 1);
  const { socket, ask } = await open();
  await ask(...hold(task));
  await f.worker('POST', `/v1/queue/${task.task_id}/release`, { delay_seconds: 0 });
  const again = await f.takeOne(`${queue}:0`);
  assert.equal(again.attempt, 2);
  socket.terminate();
  const other = await takeMany(queue, 1);
  const { socket: second, ask: askSecond } = await open();
  await askSecond(...hold(other[0]));
  second.terminate();
  // The later socket's task is back, so the earlier one's close has been seen to as well.
  await until(async () => (await f.status(other[0].task_id)) === 'waiting');
  assert.equal(await f.status(task.task_id), 'running');
});

test('a hold that is malformed, or from a client key, is refused in its verdict', async () => {
  const queue = await f.queue();
  const [task] = await takeMany(queue, 1);
  const { socket, ask } = await open();
  for (const payload of [
    { taskId: task.task_id },
    { taskId: task.task_id, attempt: 0 },
    { taskId: 'TASK-x', attempt: 1 },
    {},
  ]) {
    const verdict = await ask('task-hold-event', payload);
    assert.equal(verdict.ok, false, JSON.stringify(payload));
    assert.equal(typeof verdict.message, 'string');
  }
  socket.terminate();
  const client = await open(f.keys.client);
  assert.equal((await client.ask(...hold(task))).ok, false);
  client.socket.terminate();
});
