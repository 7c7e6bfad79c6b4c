import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request } from 'node:http';
import { test } from 'node:test';
import { assertRefused, CHAT, fixture, NO_SUCH_TASK } from './fixture.ts';

const f = fixture();
const PUT = '/v1/queue/put';

test('malformed JSON is refused with its position', async () => {
  const cases: [string, number][] = [
    ['', 0],
    ['{"queue":"q",}', 13],
    ['{"queue":"q" "level":1}', 13],
    ['{"queue":tru}', 12],
    ['{"queue":"q"} x', 14],
    ["{'queue':1}", 1],
    ['{"a":1', 6],
  ];
  for (const [body, position] of cases) {
    const answer = await f.client('POST', PUT, body, { headers: { 'Content-Length': String(body.length) } });
    assertRefused(answer, 400, new RegExp(`position ${position}\\b`));
  }
});

test('a body that is no object is refused', async () => {
  for (const body of ['[]', 'null', '1', '"x"', 'true']) assertRefused(await f.client('POST', PUT, body), 400);
});

test('a body that is not UTF-8 is refused', async () => {
  const body = Buffer.concat([Buffer.from('{"queue":"'), Buffer.from([0xc3, 0x28]), Buffer.from('"}')]);
  assertRefused(await f.client('POST', PUT, body), 400, /UTF-8/);
});

test('a compressed body is refused', async () => {
  const answer = await f.client('POST', PUT, '{}', { headers: { 'Content-Encoding': 'gzip' } });
  assertRefused(answer, 415, /gzip/);
});

test('every field of a put out of range is named by its path', async () => {
  const queue = await f.queue();
  const bad: [object, string][] = [
    [{ level: -1 }, 'level'],
    [{ level: 100 }, 'level'],
    [{ level: 1.5 }, 'level'],
    [{ level: '1' }, 'level'],
    [{ data: undefined }, 'data'],
    [{ data: null }, 'data'],
    [{ data: [] }, 'data'],
    [{ data: 'text' }, 'data'],
    [{ data: 1 }, 'data'],
    [{ endpoint: undefined }, 'endpoint'],
    [{ endpoint: '' }, 'endpoint'],
    [{ response_mode: 'batch' }, 'response_mode'],
    [{ timeout: 0 }, 'timeout'],
    [{ timeout: 2_592_001 }, 'timeout'],
    [{ timeout: 1.5 }, 'timeout'],
    [{ timeout: 601, response_mode: 'blocking' }, 'timeout'],
    [{ timeout: 601, response_mode: 'streaming' }, 'timeout'],
    [{ priority: -1 }, 'priority'],
    [{ priority: 101 }, 'priority'],
    [{ priority: 'urgent' }, 'priority'],
    [{ queue: 5 }, 'queue'],
    [{ callback_url: 'no url' }, 'callback_url'],
    [{ callback_url: 'ftp://example.com/' }, 'callback_url'],
    [{ callback_url: 'http://10.1.2.3/' }, 'callback_url'],
    [{ callback_url: 'http://[fe80::1]/' }, 'callback_url'],
    [{ trace_id: 'a\0b' }, 'trace_id'],
    [{ trace_id: 'x'.repeat(129) }, 'trace_id'],
  ];
  for (const [more, path] of bad) assertRefused(await f.tryPut({ queue, ...more }), 400, undefined, path);
  assert.deepEqual(await f.take(`${queue}:0`), []);
});

test('the ends of every range are accepted', async () => {
  const queue = await f.queue();
  for (const more of [
    { level: 0 },
    { level: 99 },
    { timeout: 1 },
    { timeout: 2_592_000 },
    { priority: 0 },
    { priority: 100 },
    { timeout: null, callback_url: null, trace_id: null },
  ])
    await f.put(queue, more);
});

test('unknown fields are ignored', async () => {
  const queue = await f.queue();
  const id = await f.put(queue, { no_such_option: { a: 1 } });
  const task = await f.takeOne(`${queue}:0`, { nor_this: true });
  assert.equal(task.task_id, id);
  assert.equal('no_such_option' in task, false);
  assert.equal((await f.complete(id, 1, { nor_that: 1 })).status, 200);
});

test('every field of a take out of range is named by its path, and nothing is taken', async () => {
  const queue = await f.queue();
  const id = await f.put(queue);
  const lane = `${queue}:0`;
  const bad: [object, string][] = [
    [{ size: 0 }, 'size'],
    [{ size: 1001 }, 'size'],
    [{ size: 1.5 }, 'size'],
    [{ size: undefined }, 'size'],
    [{ queues: [] }, 'queues'],
    [{ queues: lane }, 'queues'],
    [{ queues: undefined }, 'queues'],
    [{ queues: [queue] }, 'queues.0'],
    [{ queues: [lane, `${queue}:100`] }, 'queues.1'],
    [{ queues: [lane, `${queue}:-1`] }, 'queues.1'],
    [{ strategy: 'lifo' }, 'strategy'],
    [{ wait: -1 }, 'wait'],
    [{ wait: 61 }, 'wait'],
    [{ lease_seconds: 0 }, 'lease_seconds'],
    [{ lease_seconds: 86_401 }, 'lease_seconds'],
    [{ process_timeout: -1 }, 'process_timeout'],
    [{ min_age_seconds: -1 }, 'min_age_seconds'],
    [{ worker: 'me' }, 'worker'],
    [{ worker: { id: '' } }, 'worker.id'],
  ];
  for (const [more, path] of bad)
    assertRefused(await f.worker('POST', '/v1/queue/take', { queues: [lane], size: 1, ...more }), 400, undefined, path);
  assert.equal(await f.status(id), 'waiting');
});

test('a take with an unknown queue in any place is a 404 that names it, and takes nothing', async () => {
  const queue = await f.queue();
  const id = await f.put(queue);
  const lane = `${queue}:0`;
  for (const queues of [['nowhere:0'], [lane, 'nowhere:0'], ['nowhere:0', lane], [lane, 'nowhere:0', lane]])
    for (const strategy of ['fifo', 'round_robin', 'active_passive', 'sequential'])
      for (const wait of [0, 5])
        assertRefused(
          await f.worker('POST', '/v1/queue/take', { queues, size: 10, strategy, wait }),
          404,
          /unknown queue "nowhere"/,
        );
  assert.equal(await f.status(id), 'waiting');
});

test('an unknown task id, or one that does not parse, is a 404 wherever it stands', async () => {
  const ids = [
    NO_SUCH_TASK,
    'TASK-1-0-C-251301000000-0000-000001',
    'TASK-1-0-X-250101000000-0000-000001',
    'TASK-',
    'nonsense',
    'TASK-1-0-C-250101000000-0000-000001%20',
    '%00',
  ];
  for (const id of ids) {
    assertRefused(await f.client('GET', `/v1/queue/${id}`), 404, /unknown task/);
    assertRefused(await f.client('GET', `/v1/queue/${id}/events`), 404, /unknown task/);
    assertRefused(await f.client('POST', `/v1/queue/${id}/cancel`), 404, /unknown task/);
    assertRefused(
      await f.worker('POST', `/v1/queue/${id}/complete`, { status_code: 200, body: 1 }),
      404,
      /unknown task/,
    );
  }
});

test('NUL characters are refused where they can not be kept, and nothing else with them', async () => {
  const queue = await f.queue();
  for (const more of [{ queue: 'a\0b' }, { queue, endpoint: 'a\0b' }, { queue, callback_url: 'http://a\0b/' }])
    assert.ok([400, 404].includes((await f.tryPut(more)).status), JSON.stringify(more));
  assertRefused(await f.worker('POST', '/v1/queue/register', { queue: 'a\0b', endpoint: CHAT }), 400);
  assertRefused(await f.worker('POST', '/v1/queue/register', { queue: 'nul', endpoint: 'a\0' }), 400);
  assertRefused(await f.worker('POST', '/v1/channels', { endpoint: CHAT, model: 'a\0', queue }), 400);
  assertRefused(await f.worker('POST', '/v1/queue/take', { queues: [`${queue}:0`], size: 1, endpoint: '\0' }), 400);
  assert.ok([400, 404].includes((await f.client('GET', '/v1/queue/a%00b/metadata')).status));
  assertRefused(await f.admin('POST', '/v1/keys', { role: 'client', name: 'a\0b' }), 400, undefined, 'name');
});

test('half a surrogate pair is taken as U+FFFD wherever there is text', async () => {
  const half = '\ud83d';
  const queue = await f.queue();
  const task = { queue, endpoint: CHAT, data: { half } };
  const put = await f.tryPut({ ...task, trace_id: half, metadata: { [half]: half }, idempotency_key: `key${half}` });
  assert.equal(put.status, 200, put.text);
  const metadata = await f.client('GET', `/v1/queue/${put.json.data}`);
  assert.deepEqual(metadata.json.metadata, { '\ufffd': '\ufffd' });
  assert.equal((await f.client('POST', '/v1/queue/puts', { tasks: [{ ...task, metadata: { half } }] })).status, 200);
  const taken = await f.takeOne(`${queue}:0`, { worker: { id: `w${half}`, name: half } });
  const { task_id, attempt } = taken;
  const release = { attempt, reason: half, delay_seconds: 0 };
  assert.equal((await f.worker('POST', `/v1/queue/${task_id}/release`, release)).status, 200);
  const again = await f.takeOne(`${queue}:0`);
  assert.equal((await f.complete(again.task_id, { half }, { request_id: half })).status, 200);
  const schedule = { name: half, cron: '* * * * * *', task: { ...task, metadata: { half } } };
  const made = await f.client('POST', '/v1/schedules', schedule);
  assert.equal(made.status, 200, made.text);
  const ticked = await f.takeOne(`${queue}:0`);
  assert.ok(ticked.task_id);
  assert.equal((await f.client('DELETE', `/v1/schedules/${made.json.id}`)).status, 204);
  const answers = [
    await f.admin('POST', '/v1/keys', { role: 'client', name: half }),
    await f.worker('POST', '/v1/channels', { endpoint: CHAT, model: half, queue }),
  ];
  for (const { status, text } of answers) assert.equal(status, 200, text);
});

test('a path that is no URL path is refused in the envelope', async () => {
  assertRefused(await f.client('GET', '/v1/queue/%ff/metadata'), 400, /path/);
});

test('a body of 20 MB is refused with 413, whether it names its length or not', async () => {
  const body = `{"queue":"q","endpoint":"${CHAT}","data":{"text":"${'x'.repeat(20_000_000)}"}}`;
  assertRefused(await f.client('POST', PUT, body), 413, /10485760 bytes/);

  const chunked = request(f.server.url + PUT, {
    method: 'POST',
    headers: { Authorization: `Bearer ${f.keys.client}`, 'Transfer-Encoding': 'chunked' },
  });
  chunked.end(body);
  const [response] = await once(chunked, 'response');
  assert.equal(chunked.getHeader('content-length'), undefined);
  assert.equal(response.statusCode, 413);
  response.resume();
});

test('a body just within the limit is put and comes back whole', async () => {
  const queue = await f.queue();
  const text = 'é'.repeat(5_000_000);
  const id = await f.put(queue, { data: { text } });
  const task = await f.takeOne(`${queue}:0`);
  assert.equal(task.task_id, id);
  assert.ok(task.data.text === text);
});

test('bad tasks among concurrent puts fail alone', async () => {
  const queue = await f.queue();
  const deep = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`;
  const raw = (data: string, more = `"queue":"${queue}"`) =>
    f.client('POST', PUT, `{${more},"endpoint":"${CHAT}","data":${data}}`);
  const good: Promise<{ status: number; text: string }>[] = [];
  const bad: Promise<{ status: number; text: string }>[] = [];
  for (let n = 0; n < 200; n++) {
    good.push(raw(`{"n":${n}}`));
    if (n % 10 === 0) {
      // The first only Postgres can refuse: it must read the data to find data.model.
      bad.push(raw(`{"model":"a\\u0000b"}`, '"level":0'));
      bad.push(raw(`{"x":${deep(1500)}}`));
      bad.push(raw('{}', '"queue":"nowhere"'));
      bad.push(raw('{}', `"queue":"${queue}\\u0000"`));
      good.push(raw(`{"x":${deep(900)}}`));
      good.push(raw('{"x":"\\ud800\\u0000"}'));
    }
  }
  for (const answer of await Promise.all(good)) assert.equal(answer.status, 200, answer.text);
  for (const answer of await Promise.all(bad)) assert.ok([400, 404].includes(answer.status), answer.text);
  assert.equal((await f.take(`${queue}:0`, { size: 1000 })).length, 240);
});

test('nesting deeper than 1,000 levels is refused with its position', async () => {
  const body = `{"data":${'['.repeat(100_000)}`;
  assertRefused(await f.client('POST', PUT, body), 400, /nested deeper than 1000 levels/);
});

test('a path or method that is no route is a 404 in the envelope', async () => {
  for (const [method, path] of [
    ['GET', '/'],
    ['GET', '/v1'],
    ['GET', '/v1/queue/put/x/y/z'],
    ['PUT', '/v1/queue/put'],
    ['DELETE', '/v1/tasks'],
    ['OPTIONS', '/v1/queue/put'],
  ] as const)
    assertRefused(await f.client(method, path), 404, /no route/);
});

test('an attempt larger than any can be is a 400 that names it, wherever a worker says one', async () => {
  const task = NO_SUCH_TASK;
  const attempt = 2 ** 31;
  const event = { name: 'task-progress-event', payload: { taskId: task, attempt, eventName: 'x', eventData: 1 } };
  for (const [path, body] of [
    [`/v1/queue/${task}/release`, { attempt }],
    [`/v1/queue/${task}/complete`, { attempt, status_code: 200, body: 1 }],
    ['/v1/queue/complete', { results: [{ task_id: task, attempt, status_code: 200, body: 1 }] }],
    ['/v1/queue/heartbeat', { tasks: [{ task_id: task, attempt }] }],
    ['/v1/queue/events', event],
  ] as const) {
    assertRefused(await f.worker('POST', path, body), 400, /attempt/);
  }
});
