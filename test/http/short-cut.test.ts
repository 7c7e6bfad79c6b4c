import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type Server, startServer } from '../support/server.ts';

// Requests to a fixed path, or for one task, go past Express' matching; with a query they do not. Both must say the same.
let server: Server;
before(async () => {
  server = await startServer();
  await server.request('POST', '/v1/queue/register', { queue: 'q', endpoint: '/e' });
});
after(() => server.stop());

const put = { queue: 'q', endpoint: '/e', data: { n: 1 } };
const both = async (method: string, path: string, body?: unknown, key?: string | null) => {
  const options = key === undefined ? {} : { key };
  return [
    await server.request(method, path, body, options),
    await server.request(method, `${path}?x=1`, body, options),
  ] as const;
};

test('a put, a take, an answer and a read are the same with and without a query', async () => {
  const puts = await both('POST', '/v1/queue/put', put);
  for (const { status, headers, json } of puts) {
    assert.equal(status, 200);
    assert.match(json.data, /^TASK-/);
    assert.match(headers.get('content-type') ?? '', /^application\/json/);
  }
  const taken = await both('POST', '/v1/queue/take', { queues: ['q:0'], size: 1 });
  assert.deepEqual(
    taken.map(({ json }) => json['q:0'][0].task_id),
    puts.map(({ json }) => json.data),
  );
  for (const [n, { json }] of puts.entries()) {
    const query = n === 0 ? '' : '?x=1';
    const answer = { status_code: 200, body: { n } };
    assert.equal((await server.request('POST', `/v1/queue/${json.data}/complete${query}`, answer)).status, 200);
    const [short, long] = await both('GET', `/v1/queue/${json.data}`);
    assert.deepEqual(short.json, long.json);
    assert.deepEqual(short.json.result.body, { n });
  }
});

test('refusals are the same with and without a query', async () => {
  for (const [method, path, body, key] of [
    ['POST', '/v1/queue/put', put, null],
    ['POST', '/v1/queue/put', { queue: 'q' }],
    ['POST', '/v1/queue/put', '{'],
    ['POST', '/v1/queue/TASK-1-0-C-260101000000-0000-000001/complete', { status_code: 200, body: {} }],
    ['GET', '/v1/queue/TASK-none'],
    ['GET', '/v1/queue/put'],
    ['GET', '/v1/queue/:id'],
    ['GET', '/v1/batches/:id'],
    ['DELETE', '/v1/queue/:queue'],
    ['DELETE', '/v1/queue/put'],
    ['POST', '/v1/chat/completions', { model: 'none' }],
    ['GET', '/v1/chat/completions'],
    ['POST', '/v1/no/such/route', {}],
  ] as const) {
    const [short, long] = await both(method, path, body, key);
    const named = `${method} ${path}`;
    assert.ok(short.status >= 400, named);
    assert.equal(short.status, long.status, named);
    const told = ({ json }: typeof short) => ({ ...json, timestamp: 0 });
    assert.deepEqual(told(short), told(long), named);
  }
});

test('a HEAD and other spellings of a path find the route as well', async () => {
  assert.equal((await server.request('HEAD', '/v1/tasks')).status, 200);
  assert.equal((await server.request('POST', '/v1/Queue/put/', put)).status, 200);
});
