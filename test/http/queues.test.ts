import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Json } from '../support/server.ts';
import { assertRefused, CHAT, EMBED, fixture } from './fixture.ts';

const f = fixture();

const DEFAULTS = {
  lease_seconds: 600,
  max_attempts: 3,
  live_attempts: 2,
  live_refusal_seconds: 30,
  refusal_seconds: 900,
  max_depth: null,
  max_running: null,
  aging_seconds: 0,
  retention_seconds: 604_800,
  max_completed_tasks: null,
  retry: { initial_seconds: 1, factor: 2, max_seconds: 300, jitter: true },
  paused: false,
};

test('registering answers the name as a JSON string, and the settings are the defaults', async () => {
  const answer = await f.worker('POST', '/v1/queue/register', { queue: 'named', endpoint: CHAT });
  assert.equal(answer.status, 200);
  assert.equal(answer.text, '"named"');
  const { json } = await f.client('GET', '/v1/queue/named/metadata');
  assert.deepEqual(json, { queue: 'named', endpoint: CHAT, ...DEFAULTS });
});

test('registering again is ok and keeps settings that are not named; another endpoint conflicts', async () => {
  const queue = await f.queue(CHAT, { lease_seconds: 30, max_depth: 10 });
  await f.worker('POST', '/v1/queue/register', { queue, endpoint: CHAT, max_attempts: 7 });
  const { json } = await f.client('GET', `/v1/queue/${queue}/metadata`);
  assert.deepEqual([json.lease_seconds, json.max_depth, json.max_attempts], [30, 10, 7]);
  assertRefused(
    await f.worker('POST', '/v1/queue/register', { queue, endpoint: EMBED }),
    409,
    /registered for endpoint/,
  );
});

test('reserved and malformed names are refused', async () => {
  const reserved = [
    'put',
    'puts',
    'take',
    'complete',
    'register',
    'events',
    'eventbus',
    'heartbeat',
    'TASK-1',
    'TASK-',
  ];
  for (const queue of [...reserved, '', 'a b', 'a:1', 'ü', 'x'.repeat(65), 7, null])
    assertRefused(await f.worker('POST', '/v1/queue/register', { queue, endpoint: CHAT }), 400, undefined, 'queue');
});

test('settings out of range are refused, by path', async () => {
  const queue = await f.queue();
  const bad: [object, string][] = [
    [{ lease_seconds: 0 }, 'lease_seconds'],
    [{ lease_seconds: 86_401 }, 'lease_seconds'],
    [{ max_attempts: 0 }, 'max_attempts'],
    [{ max_attempts: 101 }, 'max_attempts'],
    [{ live_attempts: 0 }, 'live_attempts'],
    [{ live_refusal_seconds: 86_401 }, 'live_refusal_seconds'],
    [{ refusal_seconds: -1 }, 'refusal_seconds'],
    [{ retry: { factor: 0 } }, 'retry.factor'],
    [{ retry: { jitter: 'yes' } }, 'retry.jitter'],
    [{ retry: { initial_seconds: -1 } }, 'retry.initial_seconds'],
    [{ max_depth: 0 }, 'max_depth'],
    [{ max_running: -1 }, 'max_running'],
    [{ aging_seconds: 86_401 }, 'aging_seconds'],
    [{ retention_seconds: 0 }, 'retention_seconds'],
    [{ retention_seconds: 315_360_001 }, 'retention_seconds'],
    [{ max_completed_tasks: -1 }, 'max_completed_tasks'],
  ];
  for (const [settings, path] of bad) {
    assertRefused(await f.worker('PATCH', `/v1/queue/${queue}`, settings), 400, undefined, path);
    assertRefused(
      await f.worker('POST', '/v1/queue/register', { queue, endpoint: CHAT, ...settings }),
      400,
      undefined,
      path,
    );
  }
  assert.deepEqual((await f.client('GET', `/v1/queue/${queue}/metadata`)).json, {
    queue,
    endpoint: CHAT,
    ...DEFAULTS,
  });
});

test('PATCH changes what it names and answers the queue', async () => {
  const queue = await f.queue();
  const answer = await f.worker('PATCH', `/v1/queue/${queue}`, { max_running: 5, retry: { factor: 3 }, unknown: 1 });
  assert.deepEqual(answer.json, {
    queue,
    endpoint: CHAT,
    ...DEFAULTS,
    max_running: 5,
    retry: { ...DEFAULTS.retry, factor: 3 },
  });
  const kept = { aging_seconds: 60, retention_seconds: 3600, max_completed_tasks: 0 };
  const { json } = await f.worker('PATCH', `/v1/queue/${queue}`, { max_running: null, ...kept });
  assert.deepEqual(json, { ...answer.json, max_running: null, ...kept });
  await f.worker('POST', '/v1/queue/register', { queue, endpoint: CHAT, max_completed_tasks: null });
  assert.deepEqual((await f.client('GET', `/v1/queue/${queue}/metadata`)).json, { ...json, max_completed_tasks: null });
});

test('pause and resume answer the queue, and may be said twice', async () => {
  const queue = await f.queue();
  for (const [call, paused] of [
    ['pause', true],
    ['pause', true],
    ['resume', false],
    ['resume', false],
  ] as const) {
    const answer = await f.worker('POST', `/v1/queue/${queue}/${call}`);
    assert.deepEqual([answer.status, answer.json.queue, answer.json.paused], [200, queue, paused]);
  }
});

test('the list has every queue with its levels', async () => {
  const queue = await f.queue();
  await f.put(queue, { level: 3 });
  await f.put(queue, { level: 3 });
  await f.put(queue, { level: 0 });
  await f.take(`${queue}:3`);
  const { json } = await f.client('GET', '/v1/queues');
  assert.equal(json.has_more, false);
  assert.deepEqual(
    json.data.find((row: Json) => row.queue === queue),
    {
      queue,
      endpoint: CHAT,
      ...DEFAULTS,
      levels: [
        {
          level: 0,
          waiting: 1,
          deferred: 0,
          running: 0,
          rule: 'no_worker',
          reason: `no worker takes from ${queue}:0`,
        },
        { level: 3, waiting: 1, deferred: 0, running: 1, rule: null, reason: null },
      ],
    },
  );
});

test('stats tell a lane, and backlog the bare number that waits', async () => {
  const queue = await f.queue();
  const empty = (await f.worker('GET', `/v1/queue/${queue}:5/stats`)).json;
  const none = {
    waiting: 0,
    deferred: 0,
    running: 0,
    oldest_waiting_ms: null,
    total_put_cnt: 0,
    total_completed_cnt: 0,
    rule: null,
    reason: null,
  };
  assert.deepEqual(empty, { queue, level: 5, ...none });
  assert.equal((await f.worker('GET', `/v1/queue/${queue}:5/backlog`)).text, '0');

  const ids = [await f.put(queue), await f.put(queue), await f.put(queue)];
  await f.take(`${queue}:0`);
  await f.complete(ids[0] as string);
  const { oldest_waiting_ms, ...stats } = (await f.worker('GET', `/v1/queue/${queue}:0/stats`)).json;
  const { oldest_waiting_ms: _, ...zero } = none;
  const why = { rule: 'no_worker', reason: `no worker takes from ${queue}:0` };
  assert.deepEqual(stats, { ...zero, ...why, queue, level: 0, waiting: 2, total_put_cnt: 3, total_completed_cnt: 1 });
  assert.ok(oldest_waiting_ms >= 0 && oldest_waiting_ms < 60_000, 'an age');
  assert.equal((await f.worker('GET', `/v1/queue/${queue}:0/backlog`)).text, '2');

  const all = (await f.worker('GET', '/v1/console/queue/stats')).json;
  assert.equal(all.has_more, false);
  assert.equal(all.data.filter((row: Json) => row.queue === queue && row.waiting === 2).length, 1);
});

test('a lane without a level or with one out of range is a 400, an unknown queue a 404', async () => {
  const queue = await f.queue();
  for (const lane of [queue, `${queue}:`, `${queue}:100`, `${queue}:x`]) {
    assertRefused(await f.worker('GET', `/v1/queue/${lane}/stats`), 400, /not a lane/);
    assertRefused(await f.worker('GET', `/v1/queue/${lane}/backlog`), 400, /not a lane/);
    assertRefused(await f.admin('POST', `/v1/console/${lane}/clear`), 400, /not a lane/);
  }
  assertRefused(await f.worker('GET', '/v1/queue/nowhere:0/stats'), 404, /unknown queue/);
  assertRefused(await f.admin('POST', '/v1/console/nowhere:0/clear'), 404, /unknown queue/);
});

test('clear cancels what waits in the lane, and only that', async () => {
  const queue = await f.queue();
  const running = await f.put(queue);
  await f.take(`${queue}:0`);
  const waiting = [await f.put(queue), await f.put(queue)];
  const other = await f.put(queue, { level: 1 });
  const answer = await f.admin('POST', `/v1/console/${queue}:0/clear`);
  assert.deepEqual(answer.json, { cancelled: 2 });
  assert.deepEqual((await f.admin('POST', `/v1/console/${queue}:0/clear`)).json, { cancelled: 0 });
  for (const id of waiting) assert.equal(await f.status(id), 'cancelled');
  assert.deepEqual([await f.status(running), await f.status(other)], ['running', 'waiting']);
});

test('a queue in which tasks wait or run is not deleted', async () => {
  const queue = await f.queue();
  const id = await f.put(queue);
  assertRefused(await f.worker('DELETE', `/v1/queue/${queue}`), 409, /wait or run/);
  await f.take(`${queue}:0`);
  assertRefused(await f.worker('DELETE', `/v1/queue/${queue}`), 409, /wait or run/);
  assert.equal((await f.client('GET', `/v1/queue/${queue}/metadata`)).status, 200);
  await f.complete(id);

  const gone = await f.worker('DELETE', `/v1/queue/${queue}`);
  assert.deepEqual([gone.status, gone.text], [204, '']);
  assertRefused(await f.worker('DELETE', `/v1/queue/${queue}`), 404);
  assertRefused(await f.tryPut({ queue }), 404);
  assert.equal(await f.status(id), 'succeeded');

  // The name is free again, for another endpoint too, and the new queue is an empty one.
  const again = await f.worker('POST', '/v1/queue/register', { queue, endpoint: EMBED });
  assert.equal(again.status, 200);
  assert.equal((await f.worker('GET', `/v1/queue/${queue}:0/stats`)).json.total_put_cnt, 0);
});

test('channels are made, listed, moved and removed', async () => {
  const [a, b] = [await f.queue(), await f.queue()];
  const made = await f.worker('POST', '/v1/channels', { endpoint: CHAT, model: `${a}-m`, queue: a });
  const { id, ...channel } = made.json;
  assert.deepEqual(channel, { endpoint: CHAT, model: `${a}-m`, queue: a });
  const moved = await f.worker('POST', '/v1/channels', { endpoint: CHAT, model: `${a}-m`, queue: b });
  assert.equal(moved.json.id, id);
  const list = (await f.client('GET', '/v1/channels')).json;
  assert.equal(list.has_more, false);
  const [listed, ...others] = list.data.filter((row: Json) => row.model === `${a}-m`);
  assert.deepEqual(others, []);
  assert.deepEqual([listed.id, listed.endpoint, listed.queue], [id, CHAT, b]);
  const gone = await f.worker('DELETE', `/v1/channels/${id}`);
  assert.deepEqual([gone.status, gone.text], [204, '']);
  for (const unknown of [id, 'x', '0', '99999999999999999999'])
    assertRefused(await f.worker('DELETE', `/v1/channels/${unknown}`), 404, /unknown channel/);
  assertRefused(await f.tryPut({ data: { model: `${a}-m` } }), 400, /no route/);
});

test('a channel is refused by field, for an unknown queue and for another endpoint', async () => {
  const queue = await f.queue();
  const channel = { endpoint: CHAT, model: 'm', queue };
  for (const field of ['endpoint', 'model', 'queue'])
    assertRefused(await f.worker('POST', '/v1/channels', { ...channel, [field]: '' }), 400, undefined, field);
  assertRefused(await f.worker('POST', '/v1/channels', { ...channel, queue: 'nowhere' }), 404);
  assertRefused(
    await f.worker('POST', '/v1/channels', { ...channel, endpoint: EMBED }),
    400,
    /registered for endpoint/,
  );
});

test('deleting a queue removes its channels', async () => {
  const queue = await f.queue();
  await f.worker('POST', '/v1/channels', { endpoint: CHAT, model: `${queue}-m`, queue });
  await f.worker('DELETE', `/v1/queue/${queue}`);
  const { json } = await f.client('GET', '/v1/channels');
  assert.deepEqual(
    json.data.filter((row: Json) => row.queue === queue),
    [],
  );
});
