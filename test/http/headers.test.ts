import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { until } from '../support/server.ts';
import { fixture, NO_SUCH_TASK } from './fixture.ts';

const f = fixture();

const REQUEST_ID = 'x-bella-request-id';
const TRACE_ID = 'x-bella-trace-id';

test('every response has a request id of its own and a trace id', async () => {
  const queue = await f.queue();
  const answers = [
    await f.tryPut({ queue }),
    await f.client('GET', '/v1/queues'),
    await f.worker('DELETE', `/v1/channels/999`),
    await f.client('GET', `/v1/queue/${NO_SUCH_TASK}`),
    await f.client('POST', '/v1/queue/take', {}),
    await f.client('POST', '/v1/queue/put', '{'),
    await f.client('POST', '/v1/queue/put', Buffer.alloc(11_000_000)),
    await f.client('GET', '/v1/queue/%ff/metadata'),
    await f.client('GET', '/nowhere'),
    await f.server.request('GET', '/v1/queues', undefined, { key: null }),
    await f.server.request('GET', '/health'),
    await f.server.request('GET', '/actuator/health'),
    await f.server.request('GET', '/metrics'),
    await f.server.request('GET', '/actuator/prometheus'),
    await f.server.request('GET', '/openapi.json'),
  ];
  const { stream, id } = await f.stream(queue, { level: 1 });
  await f.take(`${queue}:1`);
  await f.complete(id);
  await stream.rest();
  const withStream = [...answers, stream];
  for (const [index, answer] of withStream.entries()) {
    assert.match(answer.headers.get(REQUEST_ID) ?? '', /^\S{8,}$/, `request id of answer ${index}`);
    assert.match(answer.headers.get(TRACE_ID) ?? '', /^\S{8,}$/, `trace id of answer ${index}`);
  }
  assert.equal(new Set(withStream.map((answer) => answer.headers.get(REQUEST_ID))).size, withStream.length);
});

test('a trace id and a request id that were sent come back, with errors too', async () => {
  const headers = { 'X-BELLA-TRACE-ID': 'trace-of-mine/1', 'X-BELLA-REQUEST-ID': 'mine' };
  for (const path of ['/v1/queues', `/v1/queue/${NO_SUCH_TASK}`, '/health', '/nowhere']) {
    const answer = await f.client('GET', path, undefined, { headers });
    assert.equal(answer.headers.get(TRACE_ID), 'trace-of-mine/1', path);
    assert.equal(answer.headers.get(REQUEST_ID), 'mine', path);
  }
});

test('a trace id that could not stand in a header line is replaced', async () => {
  for (const sent of ['a b', 'x'.repeat(201), 'é']) {
    const answer = await f.client('GET', '/v1/queues', undefined, { headers: { 'X-BELLA-TRACE-ID': sent } });
    assert.match(answer.headers.get(TRACE_ID) ?? '', /^[\x21-\x7e]{8,200}$/);
    assert.notEqual(answer.headers.get(TRACE_ID), sent);
  }
});

test('a request that offers another protocol is answered as it is', async () => {
  const { hostname, port } = new URL(f.server.url);
  const socket = connect(Number(port), hostname);
  socket.write(
    `GET /v1/queues HTTP/1.1\r\nHost: ${hostname}\r\nAuthorization: Bearer ${f.keys.client}\r\n` +
      'Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n\r\n',
  );
  assert.match(await text(socket), /^HTTP\/1\.1 200 OK\r\n/);
});

test('health says UP', async () => {
  for (const path of ['/health', '/actuator/health'])
    assert.deepEqual((await f.server.request('GET', path)).json, { status: 'UP' });
});

test('metrics are in the text format of Prometheus', async () => {
  const { headers, text: metrics } = await f.server.request('GET', '/metrics');
  assert.match(headers.get('content-type') ?? '', /^text\/plain/);
  assert.match(metrics, /^# HELP process_cpu_user_seconds_total /m);
});

test('metrics tell how long the event loop was busy, and no delays that a timer of theirs would set', async () => {
  const busy = async () => {
    const { text: metrics } = await f.server.request('GET', '/metrics');
    assert.doesNotMatch(metrics, /eventloop_lag_(min|max|mean|stddev|p\d+)_seconds/);
    assert.match(metrics, /^nodejs_eventloop_lag_seconds /m);
    return ['active', 'idle'].map((state) =>
      Number(new RegExp(`^nodejs_eventloop_time_seconds_total{state="${state}"} (\\S+)$`, 'm').exec(metrics)?.[1]),
    );
  };
  const before = await busy();
  // Between two requests the loop need not have been idle.
  await until(async () => (await busy()).every((seconds, n) => seconds > (before[n] as number)));
});

test('the API describes itself', async () => {
  const { json } = await f.server.request('GET', '/openapi.json');
  assert.equal(json.openapi, '3.1.0');
  assert.ok(json.paths['/v1/queue/put'].post.requestBody.content['application/json'].schema.properties.data);
  const { file, purpose } = json.paths['/v1/files'].post.requestBody.content['multipart/form-data'].schema.properties;
  assert.equal(file.format, 'binary');
  assert.ok(purpose.enum.includes('batch'));
});
