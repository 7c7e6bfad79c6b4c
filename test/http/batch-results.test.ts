import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { formHeaders, multipart } from '../support/multipart.ts';
import { type Json, openStream, ownDatabase } from '../support/server.ts';
import { batchSteps, jsonl, line } from './batch-steps.ts';
import { assertOpenAiRefused, CHAT, EMBED, fixture } from './fixture.ts';

const f = fixture();
const steps = batchSteps(f);
const { upload, create, become, files, answerAll } = steps;

const post = (id: string, verb: string, caller = f.client) => caller('POST', `/v1/batches/${id}/${verb}`);
const results = async (id: string, query = ''): Promise<Json> => {
  const answer = await f.client('GET', `/v1/batches/${id}/results${query}`);
  assert.equal(answer.status, 200, answer.text);
  assert.deepEqual(Object.keys(answer.json), ['data', 'has_more', 'next']);
  return answer.json;
};
const idsOf = (lines: Json[]): string[] => lines.map((one) => one.custom_id);
const tail = (id: string, after?: string) =>
  openStream(f.server, 'GET', `/v1/batches/${id}/results`, undefined, {
    key: f.keys.client,
    headers: { Accept: 'text/event-stream', ...(after === undefined ? {} : { 'Last-Event-ID': after }) },
  });

async function run(count: number, settings: object = {}, body: object = {}) {
  const queue = await f.queue(CHAT, settings);
  const { id } = await create(jsonl(Array.from({ length: count }, (_, n) => line(`c${n}`, queue))), body);
  return { id: id as string, queue, lane: `${queue}:1` };
}
const customIds = (count: number) => Array.from({ length: count }, (_, n) => `c${n}`);

describe('results', () => {
  test('come as lines of the files while the batch runs, in pages that go on from a number', async () => {
    const { id, lane } = await run(5);
    assert.deepEqual(await results(id), { data: [], has_more: false, next: 0 });
    const [first, second] = [await f.takeOne(lane), await f.takeOne(lane)];
    await f.complete(second.task_id, { n: 2 });
    assert.deepEqual(idsOf((await results(id)).data), ['c1']);
    await f.complete(first.task_id, { error: 'no' }, { status_code: 500 });
    const early = await results(id);
    assert.deepEqual(
      [idsOf(early.data), early.has_more, early.next],
      [['c1', 'c0'], false, 2],
      'in the order in which they were seen to end',
    );
    const done = await answerAll(id, lane);
    const { output, errors } = await files(done);
    const seen: Json[] = [];
    for (let page: Json = { next: 0, has_more: true }; page.has_more; ) {
      page = await results(id, `?limit=2&after=${page.next}`);
      seen.push(...page.data);
    }
    const byId = (a: Json, b: Json) => (a.custom_id < b.custom_id ? -1 : 1);
    assert.deepEqual(seen.toSorted(byId), [...output, ...errors].toSorted(byId));
    assert.deepEqual(seen.slice(0, 2), early.data);
    assert.deepEqual(await results(id, '?after=5'), { data: [], has_more: false, next: 5 });
    for (const query of ['limit=0', 'limit=1001', 'limit=x', 'after=-1', 'after=x'])
      assert.equal((await f.client('GET', `/v1/batches/${id}/results?${query}`)).json.error.param, query.split('=')[0]);
  });

  test('are passed over where retention has removed them, and what comes behind is not', async () => {
    const { id, lane } = await run(7);
    await answerAll(id, lane);
    const all = await results(id);
    const admin = await f.admin('GET', `/v1/tasks?batch_id=${id}&limit=100`);
    const gone = new Set(idsOf(all.data.slice(0, 4)));
    const removed = admin.json.data.filter((task: Json) => gone.has(task.custom_id)).map((task: Json) => task.task_id);
    assert.equal(removed.length, 4);
    await steps.query(
      `with ids as (select tasklane.parse_task_id(t) as id from unnest($1::text[]) t),
            r as (delete from tasklane.result where id in (select id from ids))
       delete from tasklane.task where id in (select id from ids)`,
      [removed],
    );
    const seen: string[] = [];
    for (let page: Json = { next: 0, has_more: true }; page.has_more; ) {
      page = await results(id, `?limit=2&after=${page.next}`);
      seen.push(...idsOf(page.data));
    }
    assert.deepEqual(seen, idsOf(all.data.slice(4)));
    const events = await (await tail(id)).rest();
    assert.deepEqual(
      events.map((event) => event.id),
      ['5', '6', '7', undefined],
    );
  });

  test('can be followed to the end, and from any line on', async () => {
    const { id, lane } = await run(4);
    const stream = await tail(id);
    const done = await answerAll(
      id,
      lane,
      (task) => (task.custom_id === 'c1' ? { status_code: 400, body: {} } : {}),
      1,
    );
    const events = await stream.rest();
    assert.deepEqual(
      events.map((event) => [event.name, event.id]),
      [
        ['line', '1'],
        ['line', '2'],
        ['line', '3'],
        ['line', '4'],
        ['end', undefined],
      ],
    );
    const { output, errors } = await files(done);
    const told = events.slice(0, 4).map((event) => JSON.parse(event.data));
    assert.deepEqual(idsOf(told).toSorted(), customIds(4));
    for (const one of [...output, ...errors])
      assert.deepEqual(
        told.find((other) => other.custom_id === one.custom_id),
        one,
      );
    assert.deepEqual(JSON.parse(events[4]?.data ?? ''), done, 'the end says what the batch is then');

    const resumed = await (await tail(id, '3')).rest();
    assert.deepEqual(
      resumed.map((event) => [event.name, event.id]),
      [
        ['line', '4'],
        ['end', undefined],
      ],
    );
    const beyond = await (await tail(id, '400')).rest();
    assert.deepEqual(
      beyond.map((event) => event.name),
      ['end'],
    );
  });

  test('end at once for a batch that has failed', async () => {
    const { id } = await create('{}\n');
    await become(id, 'failed');
    assert.deepEqual(await results(id), { data: [], has_more: false, next: 0 });
    const events = await (await tail(id)).rest();
    assert.deepEqual(
      events.map((event) => [event.name, JSON.parse(event.data).status]),
      [['end', 'failed']],
    );
  });
});

test('a server that is asked to stop does not wait for who follows a batch', async (t) => {
  const server = await (await ownDatabase(t)).start();
  await server.request('POST', '/v1/queue/register', { queue: 'm', endpoint: CHAT });
  const file = await server.request(
    'POST',
    '/v1/files',
    multipart([
      { name: 'purpose', value: 'batch' },
      { name: 'file', value: jsonl([line('a', 'm')]), filename: 'in.jsonl' },
    ]),
    { headers: formHeaders() },
  );
  const batch = await server.request('POST', '/v1/batches', {
    input_file_id: file.json.id,
    endpoint: CHAT,
    completion_window: '24h',
  });
  const stream = await openStream(server, 'GET', `/v1/batches/${batch.json.id}/results`, undefined, {
    headers: { Accept: 'Text/Event-Stream, application/json;q=0.5' },
  });
  const exited = server.kill('SIGTERM');
  assert.deepEqual(await stream.rest(), [], 'it ends without an end: the batch goes on, and so may the reader');
  assert.deepEqual(await exited, { code: 0, signal: null });
});

describe('what failed', () => {
  test('runs again as a batch of its own that names the first', async () => {
    const { id, lane, queue } = await run(5, { max_attempts: 1 }, { metadata: { a: 'b' }, completion_window: '3h' });
    assertOpenAiRefused(
      await post(id, 'retry_failed'),
      409,
      /^Cannot retry the failed requests of a batch with status '/,
    );
    const dead = await f.takeOne(lane);
    await f.worker('POST', `/v1/queue/${dead.task_id}/release`, {});
    const first = await answerAll(id, lane, (task) => (task.custom_id === 'c3' ? { status_code: 429, body: {} } : {}));
    assert.deepEqual(first.request_counts, { total: 5, completed: 3, failed: 2 });
    const { status, json: made } = await post(id, 'retry_failed');
    assert.equal(status, 200);
    assert.deepEqual(made.metadata, { a: 'b', retry_of: id });
    assert.deepEqual([made.status, made.endpoint, made.completion_window], ['validating', CHAT, '3h']);
    assert.notEqual(made.input_file_id, first.input_file_id);
    const input = (await steps.content(made.input_file_id))
      .trimEnd()
      .split('\n')
      .map((one) => JSON.parse(one));
    assert.deepEqual(input, [line('c0', queue), line('c3', queue)]);
    const second = await answerAll(made.id, lane);
    assert.deepEqual([second.status, second.request_counts], ['completed', { total: 2, completed: 2, failed: 0 }]);
    assert.equal((await f.client('GET', `/v1/files/${made.input_file_id}`)).json.purpose, 'batch');
  });

  test('runs again once, however often it is asked for under one key', async () => {
    const { id, lane } = await run(1);
    await answerAll(id, lane, () => ({ status_code: 500, body: {} }));
    const files = async () => (await f.client('GET', '/v1/files?purpose=batch')).json.data.length;
    const before = await files();
    const ask = () =>
      f.client('POST', `/v1/batches/${id}/retry_failed`, undefined, { headers: { 'Idempotency-Key': `again ${id}` } });
    const asked = await Promise.all([ask(), ask(), ask()]);
    assert.equal(new Set(asked.map((answer) => answer.json.id)).size, 1, asked[0]?.text);
    assert.equal(await files(), before + 1);
  });

  test('is, of a cancelled batch, all that was not answered', async () => {
    const queue = await f.queue();
    const { id } = await create(
      jsonl([line('a', undefined), line('b', undefined)]),
      {},
      { 'X-BELLA-QUEUE-NAME': queue },
    );
    await f.takeOne(`${queue}:1`).then((task) => f.complete(task.task_id));
    await post(id, 'cancel');
    await become(id, 'cancelled');
    const { json: made } = await post(id, 'retry_failed');
    const done = await answerAll(made.id, `${queue}:1`);
    assert.deepEqual(idsOf((await files(done)).output), ['b'], 'to the same queue');
  });

  test('is nothing where all went well, or nothing ran: a conflict that leaves no file behind', async () => {
    const key = await f.server.key('client', 'all-well');
    const caller: typeof f.client = (method, path, body, options) =>
      f.server.request(method, path, body, { key, ...options });
    const fileId = await upload('{}\n', caller);
    const { json: failed } = await steps.tryCreate({ input_file_id: fileId }, {}, caller);
    await become(failed.id, 'failed');
    const answer = await post(failed.id, 'retry_failed', caller);
    assertOpenAiRefused(answer, 409, /^This batch has no failed requests/);
    assert.equal(answer.headers.get('x-should-retry'), 'false');
    const listed = (await caller('GET', '/v1/files')).json.data;
    assert.deepEqual(
      listed.map((file: Json) => file.id),
      [fileId],
    );
  });
});

describe('a paused batch', () => {
  test('hands out nothing until it is resumed, and then all of it', async () => {
    const { id, lane } = await run(300);
    const held = await f.takeOne(lane);
    const paused = await post(id, 'pause');
    assert.deepEqual([paused.status, paused.json.id, paused.json.status], [200, id, 'in_progress'], paused.text);
    assert.equal((await post(id, 'pause')).status, 200, 'once more changes nothing');
    assert.deepEqual(await f.take(lane, { size: 1000 }), []);
    assert.equal((await f.complete(held.task_id)).status, 200, 'what runs is answered');
    assert.deepEqual((await f.client('GET', `/v1/batches/${id}/explain`)).json.reason, 'it is paused');
    assert.equal((await post(id, 'resume')).status, 200);
    assert.equal((await post(id, 'resume')).status, 200);
    const done = await answerAll(id, lane, undefined, 1000);
    assert.deepEqual([done.status, done.request_counts.completed], ['completed', 300]);
  });

  test('can be paused while it is validated, and begins when it is resumed', async () => {
    const queue = await f.queue();
    const fileId = await upload(jsonl([line('a', queue)]));
    const id = await steps.whileFilesAreHeld(async () => {
      const { json } = await steps.tryCreate({ input_file_id: fileId });
      assert.deepEqual([(await post(json.id, 'pause')).status], [200]);
      return json.id;
    });
    await become(id, 'in_progress');
    assert.deepEqual(await f.take(`${queue}:1`, { size: 10 }), []);
    await post(id, 'resume');
    assert.equal((await f.takeOne(`${queue}:1`)).custom_id, 'a');
  });

  test('can not be, once it has ended', async () => {
    const { id } = await create('{}\n');
    await become(id, 'failed');
    for (const verb of ['pause', 'resume'])
      assertOpenAiRefused(await post(id, verb), 409, `Cannot ${verb} a batch with status 'failed'.`);
  });
});

test('a dry run says what a batch would say, and runs nothing', async () => {
  const queue = await f.queue();
  const validate = (body: object, headers = {}) => f.client('POST', '/v1/batches/validate', body, { headers });
  const good = await upload(jsonl([line('a', queue), line('b', queue)]));
  const asked = { input_file_id: good, endpoint: CHAT };
  assert.deepEqual((await validate(asked)).json, {
    valid: true,
    total: 2,
    models: { [queue]: 2 },
    estimated_input_tokens: 3,
    errors: [],
  });
  assert.equal((await f.worker('GET', `/v1/queue/${queue}:1/stats`)).json.waiting ?? 0, 0);
  const bad = await upload(`${jsonl([line('a', 'nobody'), line('a', queue)])}nonsense`);
  const { json } = await validate({ ...asked, input_file_id: bad });
  assert.deepEqual([json.valid, json.total, json.models], [false, 3, { nobody: 1, [queue]: 1 }]);
  assert.deepEqual(
    json.errors.map((one: Json) => [one.line, one.code]),
    [
      [1, 'model_not_found'],
      [2, 'duplicate_custom_id'],
      [3, 'invalid_json_line'],
    ],
  );
  const hopeless = await validate({ ...asked, input_file_id: await upload(`{}\n${'x\n'.repeat(1199)}`) });
  assert.deepEqual([hopeless.json.total, hopeless.json.errors.length], [1200, 1000], 'all lines are counted');
  const lines = await upload(jsonl([line('a', undefined)]));
  const queued = await validate({ ...asked, input_file_id: lines }, { 'X-BELLA-QUEUE-NAME': queue });
  assert.deepEqual([queued.json.valid, queued.json.models], [true, {}]);

  assertOpenAiRefused(
    await validate({ ...asked, input_file_id: 'file-none' }),
    404,
    'No such File object: file-none',
    'input_file_id',
  );
  const foreign = await upload(jsonl([line('a', 'm')]), f.other);
  assert.equal((await validate({ ...asked, input_file_id: foreign })).status, 404);
  assertOpenAiRefused(
    await validate({ input_file_id: good }),
    400,
    "Missing required parameter: 'endpoint'.",
    'endpoint',
    'missing_required_parameter',
  );
  const vision = await upload('text', f.client, 'user_data');
  assertOpenAiRefused(
    await validate({ ...asked, input_file_id: vision }),
    400,
    "Input file must have purpose 'batch', got 'user_data'",
    'input_file_id',
  );
  assertOpenAiRefused(
    await validate(asked, { 'X-BELLA-QUEUE-NAME': 'nobody' }),
    404,
    /^unknown queue "nobody"/,
    'X-BELLA-QUEUE-NAME',
  );
  const embed = await f.queue(EMBED);
  const other = await validate(asked, { 'X-BELLA-QUEUE-NAME': embed });
  assert.deepEqual([other.status, other.json.error?.param], [400, 'X-BELLA-QUEUE-NAME']);
});

test('an explanation says why a batch is where it is', async () => {
  const explain = async (id: string) => (await f.client('GET', `/v1/batches/${id}/explain`)).json;
  const { id, lane, queue } = await run(3);
  await become(id, 'in_progress');
  const waiting = await explain(id);
  assert.deepEqual(waiting, {
    status: 'in_progress',
    waiting: 3,
    running: 0,
    position: 0,
    eta_seconds: null,
    reason: `no worker takes from ${lane}`,
  });
  const task = await f.takeOne(lane);
  assert.deepEqual([(await explain(id)).waiting, (await explain(id)).running], [2, 1]);
  const { id: second } = await create(jsonl([line('x', queue)]));
  await become(second, 'in_progress');
  assert.equal((await explain(second)).position, 1);
  await f.put(queue);
  assert.match((await explain(second)).reason, /^live work goes first: 1 tasks/);
  await f.complete(task.task_id);
  await answerAll(id, lane);
  assert.deepEqual(await explain(id), {
    status: 'completed',
    waiting: 0,
    running: 0,
    position: 0,
    eta_seconds: 0,
    reason: 'it has ended',
  });
});
