import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Json } from '../support/server.ts';
import { assertRefused, fixture, NO_SUCH_TASK } from './fixture.ts';

const f = fixture();

const explain = async (id: string): Promise<Json> => {
  const answer = await f.client('GET', `/v1/queue/${id}/explain`);
  assert.equal(answer.status, 200, answer.text);
  return answer.json;
};
const takeAs = (worker: Json, lane: string) => f.worker('POST', '/v1/queue/take', { queues: [lane], size: 1, worker });
const upstream = (more: Json) => ({ url: 'http://gpu:8000', since: Date.now(), in_flight: 0, limit: 4, ...more });

test('an explanation says why a task waits, who has it, and how it ended', async () => {
  const queue = await f.queue();
  const lane = `${queue}:0`;
  const id = await f.put(queue);
  assert.deepEqual(await explain(id), {
    status: 'waiting',
    position: 0,
    eta_seconds: null,
    reason: `no worker takes from ${lane}`,
    rule: 'no_worker',
  });
  assert.equal((await explain(await f.put(queue))).position, 1);
  await takeAs({ id: 'w', name: 'gpu-1', upstreams: [upstream({ state: 'healthy' })] }, lane);
  const { status, rule, reason, position } = await explain(id);
  assert.deepEqual([status, rule, position], ['running', 'running', null]);
  assert.match(reason, /^worker gpu-1 has it since \d\d:\d\d UTC, for \ds$/);
  await f.complete(id, {}, { status_code: 500 });
  assert.match((await explain(id)).reason, /^worker gpu-1 answered 500 at attempt 1/);
});

test('what a worker reports is the reason at once, of its lane and of what waits there', async () => {
  const queue = await f.queue();
  const lane = `${queue}:0`;
  const report = (state: string, more: Json = {}) =>
    f.worker('POST', '/v1/queue/heartbeat', {
      tasks: [],
      worker: { id: 'reporter', upstreams: [upstream({ state, ...more })] },
    });
  await takeAs({ id: 'reporter', upstreams: [upstream({ state: 'healthy' })] }, lane);
  const id = await f.put(queue);
  assert.equal((await explain(id)).rule, 'behind');
  await report('failing', { status: 500, message: 'CUDA out of memory' });
  await f.worker('GET', '/v1/workers');
  const { rule, reason } = await explain(id);
  assert.equal(rule, 'upstream_failing');
  assert.match(reason, /^the upstream http:\/\/gpu:8000 of worker reporter answers 500 "CUDA out of memory" since /);
  const { json: stats } = await f.worker('GET', `/v1/queue/${lane}/stats`);
  assert.deepEqual([stats.rule, stats.reason], [rule, reason]);
});

test('a task of another tenant, and what is none, is a 404', async () => {
  const id = await f.put(await f.queue());
  assertRefused(await f.other('GET', `/v1/queue/${id}/explain`), 404, /^unknown task/);
  for (const caller of [f.worker, f.admin]) assert.equal((await caller('GET', `/v1/queue/${id}/explain`)).status, 200);
  for (const none of [NO_SUCH_TASK, 'TASK-none', 'nonsense', '%00', "'"])
    assertRefused(await f.client('GET', `/v1/queue/${encodeURIComponent(none)}/explain`), 404);
});
