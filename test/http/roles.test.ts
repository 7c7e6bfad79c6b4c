import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Answer } from '../support/server.ts';
import { assertOpenAiRefused, assertRefused, CHAT, EMBED, fixture, NO_SUCH_TASK } from './fixture.ts';

const f = fixture();
const NO_BATCH = 'BATCH-0-1-250101000000-0000-000001';

const CLIENT = ['client', 'admin'];
const WORKER = ['worker', 'admin'];
const BOTH = ['client', 'worker', 'admin'];
const ADMIN = ['admin'];

// Calls that change nothing for a key that may make them: 400 for an empty body, 404 for what there is not.
type Row = [method: string, path: string, roles: string[], allowed: number, body?: object];
const ROUTES: Row[] = [
  ['POST', '/v1/queue/put', CLIENT, 400, {}],
  ['POST', '/v1/queue/puts', CLIENT, 400, {}],
  ['POST', '/v1/queue/take', WORKER, 400, {}],
  ['POST', '/v1/queue/complete', WORKER, 400, {}],
  ['POST', `/v1/queue/${NO_SUCH_TASK}/complete`, WORKER, 404, { status_code: 200, body: 1 }],
  ['POST', `/v1/queue/${NO_SUCH_TASK}/cancel`, CLIENT, 404],
  ['POST', '/v1/queue/heartbeat', WORKER, 400, {}],
  ['POST', `/v1/queue/${NO_SUCH_TASK}/release`, WORKER, 404],
  ['PATCH', `/v1/queue/${NO_SUCH_TASK}`, CLIENT, 404, { priority: 'high' }],
  ['POST', `/v1/queue/${NO_SUCH_TASK}/replay`, CLIENT, 404],
  ['GET', '/v1/dead?queue=nowhere', CLIENT, 404],
  ['POST', '/v1/dead/replay', CLIENT, 404, { queue: 'nowhere' }],
  ['DELETE', '/v1/dead?queue=nowhere', CLIENT, 404],
  ['GET', `/v1/queue/${NO_SUCH_TASK}`, BOTH, 404],
  ['GET', `/v1/queue/${NO_SUCH_TASK}/events`, BOTH, 404],
  ['GET', `/v1/queue/${NO_SUCH_TASK}/explain`, BOTH, 404],
  ['GET', '/v1/tasks', BOTH, 200],
  ['POST', '/v1/queue/events', WORKER, 400, {}],
  ['GET', '/v1/queue/eventbus', BOTH, 200],
  ['GET', '/v1/events?queue=nowhere', CLIENT, 404],
  ['POST', '/v1/queue/register', WORKER, 400, {}],
  ['GET', '/v1/queue/nowhere/metadata', BOTH, 404],
  ['GET', '/v1/queues', BOTH, 200],
  ['PATCH', '/v1/queue/nowhere', WORKER, 404, {}],
  ['POST', '/v1/queue/nowhere/pause', WORKER, 404],
  ['POST', '/v1/queue/nowhere/resume', WORKER, 404],
  ['DELETE', '/v1/queue/nowhere', WORKER, 404],
  ['GET', '/v1/queue/nowhere:0/stats', WORKER, 404],
  ['GET', '/v1/queue/nowhere:0/backlog', WORKER, 404],
  ['GET', '/v1/console/queue/stats', WORKER, 200],
  ['POST', '/v1/console/nowhere:0/clear', ADMIN, 404],
  ['POST', '/v1/channels', WORKER, 400, {}],
  ['GET', '/v1/channels', BOTH, 200],
  ['DELETE', '/v1/channels/999', WORKER, 404],
  ['POST', '/v1/keys', ADMIN, 400, {}],
  ['GET', '/v1/keys', ADMIN, 200],
  ['DELETE', '/v1/keys/key-999', ADMIN, 404],
  ['GET', '/v1/callbacks', CLIENT, 200],
  ['POST', '/v1/callbacks/999/retry', CLIENT, 404],
  ['POST', '/v1/callback_secret', CLIENT, 200],
  ['GET', '/v1/workers', WORKER, 200],
  ['POST', '/v1/workers/nobody/drain', ADMIN, 404],
  ['POST', '/v1/workers/nobody/resume', ADMIN, 404],
  ['GET', '/v1/tenants', ADMIN, 200],
  ['PATCH', '/v1/tenants/nobody', ADMIN, 404, {}],
  ['POST', '/v1/schedules', CLIENT, 400, {}],
  ['GET', '/v1/schedules', CLIENT, 200],
  ['GET', '/v1/schedules/preview', CLIENT, 400],
  ['GET', '/v1/schedules/schedule-999', CLIENT, 404],
  ['PATCH', '/v1/schedules/schedule-999', CLIENT, 404, {}],
  ['DELETE', '/v1/schedules/schedule-999', CLIENT, 404],
  ['POST', '/v1/schedules/schedule-999/enable', CLIENT, 404],
  ['POST', '/v1/schedules/schedule-999/disable', CLIENT, 404],
  ['POST', '/v1/webhook_endpoints', CLIENT, 400, {}],
  ['GET', '/v1/webhook_endpoints', CLIENT, 200],
  ['GET', '/v1/webhook_endpoints/whe_0', CLIENT, 404],
  ['POST', '/v1/webhook_endpoints/whe_0', CLIENT, 404, {}],
  ['DELETE', '/v1/webhook_endpoints/whe_0', CLIENT, 404],
  ['POST', '/v1/webhook_endpoints/whe_0/rotate_secret', CLIENT, 404],
  ['POST', '/v1/webhook_endpoints/whe_0/test', CLIENT, 404, { event_type: 'batch.failed' }],
  ['GET', '/v1/webhook_event_types', CLIENT, 200],
  ['POST', CHAT, CLIENT, 400, {}],
  ['POST', EMBED, CLIENT, 400, {}],
  ['POST', '/v1/completions', CLIENT, 400, {}],
  ['POST', '/v1/responses', CLIENT, 400, {}],
  ['POST', '/v1/moderations', CLIENT, 404, {}],
  ['GET', '/v1/models', BOTH, 200],
  ['GET', '/v1/models/nothing', BOTH, 404],
  ['POST', '/v1/files', CLIENT, 400, {}],
  ['GET', '/v1/files', CLIENT, 200],
  ['GET', '/v1/files/file-nowhere', CLIENT, 404],
  ['GET', '/v1/files/file-nowhere/content', CLIENT, 404],
  ['DELETE', '/v1/files/file-nowhere', CLIENT, 404],
  ['POST', '/v1/uploads', CLIENT, 400, {}],
  ['POST', '/v1/uploads/upload_nowhere/parts', CLIENT, 404],
  ['POST', '/v1/uploads/upload_nowhere/complete', CLIENT, 404, { part_ids: ['part_x'] }],
  ['POST', '/v1/uploads/upload_nowhere/cancel', CLIENT, 404],
  ['POST', '/v1/batches', CLIENT, 400, {}],
  ['GET', '/v1/batches', CLIENT, 200],
  ['POST', '/v1/batches/validate', CLIENT, 400, {}],
  ['GET', `/v1/batches/${NO_BATCH}`, CLIENT, 404],
  ...['cancel', 'pause', 'resume', 'retry_failed'].map(
    (what): Row => ['POST', `/v1/batches/${NO_BATCH}/${what}`, CLIENT, 404],
  ),
  ['GET', `/v1/batches/${NO_BATCH}/explain`, CLIENT, 404],
  ['GET', `/v1/batches/${NO_BATCH}/results`, CLIENT, 404],
];
const OPENAI =
  /^\/v1\/(chat\/completions|completions|embeddings|responses|moderations|models|files|uploads|batches|webhook_endpoints|webhook_event_types)/;

for (const [method, path, roles, allowed, body] of ROUTES) {
  test(`${method} ${path} is for ${roles.join(', ')}`, async () => {
    const openAi = OPENAI.test(path);
    for (const role of ['client', 'worker', 'admin'] as const) {
      const answer = await f.server.request(method, path, body, { key: f.keys[role] });
      if (!roles.includes(role))
        (openAi ? assertOpenAiRefused : assertRefused)(answer, 403, new RegExp(`^a ${role} key may not`));
      else assert.equal(answer.status, allowed, `${role}: ${answer.text}`);
    }
    const unknown = (answer: Answer, code: string | null) =>
      openAi ? assertOpenAiRefused(answer, 401, undefined, null, code) : assertRefused(answer, 401);
    for (const key of [null, '', 'sk-nobody', `${f.keys.admin}x`])
      unknown(await f.server.request(method, path, body, { key }), key ? 'invalid_api_key' : null);
    const basic = { headers: { Authorization: `Basic ${f.keys.admin}` }, key: null };
    unknown(await f.server.request(method, path, body, basic), null);
  });
}

test('the table holds every route that the description of the API has', async () => {
  const { paths } = (await f.server.request('GET', '/openapi.json')).json;
  const described = Object.entries(paths as Record<string, object>).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path.replaceAll(/\{\w+\}/g, '*')}`),
  );
  const missing = described.filter((route) => {
    const [method, path = ''] = route.split(' ');
    const pattern = new RegExp(`^${path.replaceAll('*', '[^/]+')}$`);
    return !ROUTES.some((row) => row[0] === method && pattern.test(row[1].split('?')[0] as string));
  });
  assert.deepEqual(missing, []);
});

test('the scheme of the Authorization header may be written in any case', async () => {
  for (const scheme of ['bearer', 'BEARER', 'Bearer  ']) {
    const headers = { Authorization: `${scheme} ${f.keys.client}` };
    assert.equal((await f.server.request('GET', '/v1/queues', undefined, { key: null, headers })).status, 200);
  }
});

test('what needs no key answers without one', async () => {
  for (const path of ['/health', '/actuator/health', '/metrics', '/actuator/prometheus', '/openapi.json'])
    assert.equal((await f.server.request('GET', path, undefined, { key: null })).status, 200, path);
});
