import assert from 'node:assert/strict';
import { after, beforeEach, test } from 'node:test';
import { type Json, openStream, type Stream, until } from '../support/server.ts';
import { fixture } from './fixture.ts';

const f = fixture();
let feed: Stream;
beforeEach(async () => {
  feed ??= await openStream(f.server, 'GET', '/v1/events', undefined, { key: f.keys.client });
});
after(() => feed?.close());

/** The next events of the feed, as many as are expected: type, status, attempt and data. */
async function expect(id: string, expected: [type: string, status: string, attempt: number, data?: Json][]) {
  const found: Json[] = [];
  while (found.length < expected.length) {
    const event = await feed.next();
    assert.ok(event, 'the feed has ended');
    const { task_id: taskId, type, status, attempt, data } = JSON.parse(event.data);
    assert.equal(event.name, type);
    if (taskId === id) found.push(data === undefined ? [type, status, attempt] : [type, status, attempt, data]);
  }
  assert.deepEqual(found, expected);
}

test('a task that is answered at once is submitted, started, reported on and completed', async () => {
  const queue = await f.queue();
  const id = await f.put(queue);
  await f.takeOne(`${queue}:0`);
  await f.emit(id, 'chunk', { delta: 'Hi' }, { eventId: 'one' });
  await f.complete(id);
  await expect(id, [
    ['submitted', 'waiting', 0],
    ['started', 'running', 1],
    ['progress', 'running', 1, { event_id: 'one', event_name: 'chunk', event_data: { delta: 'Hi' } }],
    ['completed', 'succeeded', 1, { status_code: 200 }],
  ]);
});

test('an answer that is no 2xx is failed', async () => {
  const queue = await f.queue();
  const id = await f.put(queue);
  await f.takeOne(`${queue}:0`);
  await f.worker('POST', `/v1/queue/${id}/complete`, { status_code: 429, body: null });
  await expect(id, [
    ['submitted', 'waiting', 0],
    ['started', 'running', 1],
    ['failed', 'failed', 1, { status_code: 429 }],
  ]);
});

test('a task that is delayed, moved up, released, retried, dead and replayed tells so at each step', async () => {
  const queue = await f.queue();
  const id = await f.put(queue, { delay_seconds: 0.5, max_attempts: 2 });
  assert.equal((await f.client('PATCH', `/v1/queue/${id}`, { priority: 'high' })).status, 200);
  await f.takeOne(`${queue}:0`);
  await f.worker('POST', `/v1/queue/${id}/release`, { delay_seconds: 0, reason: 'busy' });
  await f.takeOne(`${queue}:0`);
  await f.worker('POST', `/v1/queue/${id}/release`);
  await f.client('POST', `/v1/queue/${id}/replay`);
  await f.client('PATCH', `/v1/queue/${id}`, { priority: 3 });
  await f.client('POST', `/v1/queue/${id}/cancel`);
  await expect(id, [
    ['submitted', 'deferred', 0],
    ['priority_updated', 'deferred', 0, { priority: 10 }],
    ['started', 'running', 1],
    ['released', 'waiting', 1, { reason: 'busy' }],
    ['retried', 'waiting', 1],
    ['started', 'running', 2],
    ['released', 'dead', 2, { reason: 'released' }],
    ['dead', 'dead', 2, { status_code: 502 }],
    ['replayed', 'waiting', 0],
    ['priority_updated', 'waiting', 0, { priority: 3 }],
    ['cancelled', 'cancelled', 0, { status_code: 499 }],
  ]);
});

test('a release with a pause is deferred, and retried when it is over', async () => {
  const queue = await f.queue();
  const id = await f.put(queue);
  await f.takeOne(`${queue}:0`);
  await f.worker('POST', `/v1/queue/${id}/release`, { delay_seconds: 0.3 });
  await expect(id, [
    ['submitted', 'waiting', 0],
    ['started', 'running', 1],
    ['released', 'deferred', 1, { reason: 'released' }],
    ['retried', 'waiting', 1],
  ]);
});

test('a lease that lapses is a retry, and a deadline an expiry', async () => {
  const queue = await f.queue();
  const id = await f.put(queue, { timeout: 2 });
  await f.takeOne(`${queue}:0`, { lease_seconds: 1 });
  await expect(id, [
    ['submitted', 'waiting', 0],
    ['started', 'running', 1],
    ['retried', 'waiting', 1, { reason: 'lapsed' }],
    ['expired', 'expired', 1, { status_code: 408 }],
  ]);
});

test('what a refused call would have done is not told', async () => {
  const queue = await f.queue();
  const [id, marker] = [await f.put(queue), await f.put(queue)];
  await f.complete(id);
  await f.worker('POST', `/v1/queue/${id}/release`);
  await f.client('POST', `/v1/queue/${id}/replay`);
  await f.client('POST', `/v1/queue/${marker}/cancel`);
  await until(async () => (await f.status(marker)) === 'cancelled');
  const types: string[] = [];
  for (;;) {
    const event = await feed.next();
    const { task_id: taskId, type } = JSON.parse(event?.data ?? '{}');
    if (taskId === id) types.push(type);
    if (taskId === marker && type === 'cancelled') break;
  }
  assert.deepEqual(types, ['submitted']);
});
