import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import OpenAI from 'openai';
import { openStream, until } from '../support/server.ts';
import { batchSteps, jsonl, line } from './batch-steps.ts';
import { assertOpenAiRefused, CHAT, fixture } from './fixture.ts';

const f = fixture();
const steps = batchSteps(f);
const { upload, tryCreate, create, become, files } = steps;
const DAY = 86_400;
const NO_SUCH_BATCH = 'BATCH-0-1-250101000000-0000-000001';
const NO_USAGE = {
  input_tokens: 0,
  input_tokens_details: { cached_tokens: 0 },
  output_tokens: 0,
  output_tokens_details: { reasoning_tokens: 0 },
  total_tokens: 0,
};
const TIMES = [
  'in_progress_at',
  'finalizing_at',
  'completed_at',
  'failed_at',
  'expired_at',
  'cancelling_at',
  'cancelled_at',
];
const timesOf = (batch: Record<string, unknown>) => TIMES.filter((name) => batch[name] !== null);
const cancel = (id: string) => f.client('POST', `/v1/batches/${id}/cancel`);

/** A batch of `count` lines in a queue of its own. */
async function run(count: number, body: object = {}) {
  const queue = await f.queue();
  const lines = Array.from({ length: count }, (_, n) => line(`c${n}`, queue));
  const batch = await create(jsonl(lines), body);
  return { queue, lane: `${queue}:1`, id: batch.id as string, batch };
}

describe('a batch', () => {
  test('has all keys from the first reply on, unset ones null', async () => {
    const fileId = await upload(jsonl([line('a', await f.queue())]));
    const metadata = { team: 'search', '1': '', 'ü 👋': '"\\\n' };
    const answer = await tryCreate({ input_file_id: fileId, metadata, unknown: 1, model: 'x' });
    assert.equal(answer.status, 200);
    assert.match(answer.headers.get('content-type') ?? '', /^application\/json/);
    assert.match(answer.headers.get('x-request-id') ?? '', /^req_[0-9a-f]{32}$/);
    const { id, created_at: createdAt } = answer.json;
    assert.match(id, /^BATCH-0-1-\d{12}-\d{4}-\d{6}$/);
    assert.ok(Number.isInteger(createdAt) && Math.abs(createdAt - Date.now() / 1000) < 60);
    assert.deepEqual(answer.json, {
      id,
      object: 'batch',
      endpoint: CHAT,
      model: null,
      errors: null,
      input_file_id: fileId,
      completion_window: '24h',
      status: 'validating',
      output_file_id: null,
      error_file_id: null,
      created_at: createdAt,
      in_progress_at: null,
      expires_at: createdAt + DAY,
      finalizing_at: null,
      completed_at: null,
      failed_at: null,
      expired_at: null,
      cancelling_at: null,
      cancelled_at: null,
      request_counts: { total: 0, completed: 0, failed: 0 },
      usage: NO_USAGE,
      metadata,
    });
    assert.deepEqual((await create(jsonl([line('a', 'none')]))).metadata, null);
    assert.deepEqual((await create(jsonl([line('a', 'none')]), { metadata: {} })).metadata, {});
    assert.deepEqual((await create(jsonl([line('a', 'none')]), { metadata: null })).metadata, null);
  });

  test('runs, counts what is answered, and ends with its files', async () => {
    const { id, lane, queue, batch: made } = await run(5, { metadata: { a: 'b' } });
    const running = await become(id, 'in_progress');
    assert.deepEqual(running.request_counts, { total: 5, completed: 0, failed: 0 });
    assert.equal(running.model, queue);
    assert.deepEqual(timesOf(running), ['in_progress_at']);
    const usage = (n: number) => ({
      prompt_tokens: n,
      completion_tokens: 2,
      total_tokens: n + 2,
      prompt_tokens_details: { cached_tokens: 1 },
      completion_tokens_details: { reasoning_tokens: 1 },
    });
    const [first] = [await f.takeOne(lane)];
    await f.complete(first.task_id, { usage: usage(7) });
    const counted = await steps.get(id);
    assert.deepEqual(counted.request_counts, { total: 5, completed: 1, failed: 0 }, 'at once, not later');
    assert.deepEqual([counted.output_file_id, counted.error_file_id], [null, null]);
    let answers = 0;
    const done = await steps.answerAll(id, lane, () => {
      answers++;
      return answers === 4 ? { status_code: 429, body: { usage: usage(1000) } } : { body: { usage: usage(answers) } };
    });
    assert.equal(done.status, 'completed');
    assert.deepEqual(Object.keys(done), Object.keys(made));
    assert.deepEqual(done.request_counts, { total: 5, completed: 4, failed: 1 });
    assert.deepEqual(timesOf(done), ['in_progress_at', 'finalizing_at', 'completed_at']);
    for (const name of ['in_progress_at', 'finalizing_at', 'completed_at']) assert.ok(Number.isInteger(done[name]));
    assert.deepEqual(done.usage, {
      input_tokens: 7 + 1 + 2 + 3,
      input_tokens_details: { cached_tokens: 4 },
      output_tokens: 8,
      output_tokens_details: { reasoning_tokens: 4 },
      total_tokens: 7 + 1 + 2 + 3 + 8,
    });
    assert.deepEqual(done.metadata, { a: 'b' });
    for (const [what, fileId] of [
      ['output', done.output_file_id],
      ['error', done.error_file_id],
    ]) {
      const file = (await f.client('GET', `/v1/files/${fileId}`)).json;
      assert.deepEqual(
        [file.purpose, file.filename, file.status, file.expires_at],
        ['batch_output', `${id}_${what}.jsonl`, 'processed', file.created_at + 30 * DAY],
      );
    }
    const { output, errors } = await files(done);
    assert.deepEqual([...output, ...errors].map((one) => one.custom_id).sort(), ['c0', 'c1', 'c2', 'c3', 'c4']);
    assert.equal((await cancel(id)).status, 409);
    assert.deepEqual(await steps.get(id), done, 'what has ended does not change');
  });

  test('of which every row failed is completed, without an output file', async () => {
    const { id, lane } = await run(3);
    const done = await steps.answerAll(id, lane, () => ({ status_code: 500, body: { error: { message: 'no' } } }));
    assert.deepEqual([done.status, done.output_file_id], ['completed', null]);
    assert.deepEqual(done.request_counts, { total: 3, completed: 0, failed: 3 });
    const { errors } = await files(done);
    assert.equal(errors.length, 3);
    for (const one of errors) assert.deepEqual([one.error, one.response.status_code], [null, 500]);
    const good = await run(1);
    assert.equal(
      (await steps.answerAll(good.id, good.lane)).error_file_id,
      null,
      'nor has one without a fault one for errors',
    );
  });

  test('with lines for several models has none itself, and each line goes to its queue', async () => {
    const [one, two] = [await f.queue(), await f.queue()];
    const { id } = await create(jsonl([line('a', one), line('b', two), line('c', one)]));
    const lanes = [`${one}:1`, `${two}:1`];
    const taken = await f
      .take(lanes, { size: 10, wait: 10 })
      .then(async (tasks) => (tasks.length === 3 ? tasks : [...tasks, ...(await f.take(lanes, { size: 10 }))]));
    assert.deepEqual(taken.map((task) => [task.custom_id, task.queue, task.level]).sort(), [
      ['a', one, 1],
      ['b', two, 1],
      ['c', one, 1],
    ]);
    for (const task of taken) await f.complete(task.task_id);
    const done = await become(id, 'completed');
    assert.equal(done.model, null);
  });

  test('expires at the end of its window: what was answered is kept, the rest is in the error file and not counted', async () => {
    const { id, lane, batch } = await run(4, { completion_window: '2s' });
    assert.equal(batch.expires_at, batch.created_at + 2);
    const [task, held] = [await f.takeOne(lane), await f.takeOne(lane)];
    await f.complete(task.task_id, { fine: true });
    const done = await become(id, 'expired');
    assert.deepEqual(done.request_counts, { total: 4, completed: 1, failed: 0 });
    assert.deepEqual(timesOf(done), ['in_progress_at', 'finalizing_at', 'expired_at']);
    assert.ok(done.expired_at >= done.expires_at);
    const { output, errors } = await files(done);
    assert.deepEqual(
      output.map((one) => one.custom_id),
      [task.custom_id],
    );
    assert.equal(errors.length, 3);
    for (const one of errors) {
      assert.equal(one.response, null);
      assert.deepEqual(one.error, {
        code: 'batch_expired',
        message: 'This request could not be executed before the completion window expired.',
      });
    }
    assert.equal((await f.complete(held.task_id)).status, 409, 'an answer that comes too late');
    assertOpenAiRefused(await cancel(id), 409, "Cannot cancel a batch with status 'expired'.");
  });

  test('expires while it is validated: nothing of it runs', async () => {
    const queue = await f.queue();
    const input = await upload(jsonl([line('a', queue)]));
    const { id } = await steps.whileFilesAreHeld(async () => {
      const { json } = await tryCreate({ input_file_id: input, completion_window: '1s' });
      await until(async () => (await steps.get(json.id)).status !== 'validating');
      assertOpenAiRefused(await cancel(json.id), 409, "Cannot cancel a batch with status 'expired'.");
      return json;
    });
    const done = await become(id, 'expired');
    assert.deepEqual(timesOf(done), ['finalizing_at', 'expired_at']);
    assert.deepEqual(
      [done.request_counts.total, done.output_file_id, done.error_file_id, await f.take(`${queue}:1`)],
      [0, null, null, []],
    );
  });

  test('goes on although its file is deleted while it is validated or runs; nobody else sees the file', async () => {
    const queue = await f.queue();
    const fileId = await upload(jsonl([line('a', queue), line('b', queue)]));
    const { id } = await steps.whileFilesAreHeld(async () => {
      const { json } = await tryCreate({ input_file_id: fileId });
      assert.equal((await f.client('DELETE', `/v1/files/${fileId}`)).status, 200);
      assert.equal((await steps.get(json.id)).status, 'validating');
      return json;
    });
    assertOpenAiRefused(
      await tryCreate({ input_file_id: fileId }),
      404,
      `No such File object: ${fileId}`,
      'input_file_id',
    );
    assert.equal((await f.client('GET', `/v1/files/${fileId}/content`)).status, 404);
    const done = await steps.answerAll(id, `${queue}:1`);
    assert.deepEqual([done.status, done.request_counts.completed, done.input_file_id], ['completed', 2, fileId]);
  });
});

describe('an id', () => {
  test('that is none is malformed, one of nobody or of another tenant is not found', async () => {
    const foreign = (await tryCreate({ input_file_id: await upload(jsonl([line('a', 'm')]), f.other) }, {}, f.other))
      .json.id;
    for (const [method, more] of [
      ['GET', ''],
      ['POST', '/cancel'],
      ['POST', '/pause'],
      ['POST', '/resume'],
      ['POST', '/retry_failed'],
      ['GET', '/explain'],
      ['GET', '/results'],
    ] as const) {
      for (const id of ['foo', 'file-abc', '7', 'TASK-1-0-C-250101000000-0000-000001', "'", '%00']) {
        const answer = await f.client(method, `/v1/batches/${encodeURIComponent(id)}${more}`);
        assertOpenAiRefused(
          answer,
          400,
          `Invalid 'batch_id': '${id}'. Expected an ID that begins with 'BATCH'.`,
          'batch_id',
          'invalid_value',
        );
      }
      for (const id of [NO_SUCH_BATCH, foreign, 'batch_x', 'BATCH-0-1-999999999999-0000-000001'])
        assertOpenAiRefused(await f.client(method, `/v1/batches/${id}${more}`), 404, `No batch found with id '${id}'.`);
    }
    assert.equal((await f.other('GET', `/v1/batches/${foreign}`)).status, 200);
    assert.equal((await f.admin('GET', `/v1/batches/${foreign}`)).status, 200, 'an admin sees all');
  });

  test('takes a key of a client, as OpenAI says it', async () => {
    for (const [method, path] of [
      ['POST', '/v1/batches'],
      ['GET', '/v1/batches'],
      ['GET', `/v1/batches/${NO_SUCH_BATCH}`],
      ['POST', `/v1/batches/${NO_SUCH_BATCH}/cancel`],
    ] as const) {
      const none = await f.server.request(method, path, undefined, { key: null });
      assertOpenAiRefused(none, 401, 'Missing bearer or basic authentication in header', null, none.json.error.code);
      const wrong = await f.server.request(method, path, undefined, { key: 'sk-0123456789abcdef' });
      assert.equal(wrong.status, 401);
      assert.match(wrong.json.error.message, /^Incorrect API key provided: /);
      assertOpenAiRefused(await f.worker(method, path, method === 'POST' ? {} : undefined), 403);
    }
  });

  test('has the verbs of the contract and no others', async () => {
    for (const [method, path, allow] of [
      ['PUT', '/v1/batches', 'POST, GET'],
      ['DELETE', '/v1/batches', 'POST, GET'],
      ['DELETE', `/v1/batches/${NO_SUCH_BATCH}`, 'GET'],
      ['POST', `/v1/batches/${NO_SUCH_BATCH}`, 'GET'],
      ['GET', `/v1/batches/${NO_SUCH_BATCH}/cancel`, 'POST'],
    ] as const) {
      const answer = await f.client(method, path);
      assertOpenAiRefused(answer, 405, /^Not allowed to /, null, 'method_not_supported');
      assert.equal(answer.headers.get('allow'), allow);
    }
    assertOpenAiRefused(await f.client('POST', '/v1/batches/x/y/z'), 404, 'Invalid URL (POST /v1/batches/x/y/z)');
  });
});

describe('a list', () => {
  const list = (query: string, caller = f.other) => caller('GET', `/v1/batches${query}`);

  test("goes from the newest to the oldest, a page at a time, and only over one's own", async () => {
    assert.deepEqual((await list('', f.admin)).json.object, 'list');
    const key = await f.server.key('client', 'lister');
    const own = (query: string) => f.server.request('GET', `/v1/batches${query}`, undefined, { key });
    assert.deepEqual((await own('')).json, {
      object: 'list',
      data: [],
      first_id: null,
      last_id: null,
      has_more: false,
    });
    const caller: typeof f.client = (method, path, body, options) =>
      f.server.request(method, path, body, { key, ...options });
    const fileId = await upload(jsonl([line('a', 'm')]), caller);
    const made: string[] = [];
    for (let n = 0; n < 23; n++) made.unshift((await tryCreate({ input_file_id: fileId }, {}, caller)).json.id);

    const first = (await own('')).json;
    assert.deepEqual(
      first.data.map((one: { id: string }) => one.id),
      made.slice(0, 20),
    );
    assert.deepEqual([first.object, first.first_id, first.last_id, first.has_more], ['list', made[0], made[19], true]);
    const rest = (await own(`?after=${first.last_id}&limit=3`)).json;
    assert.deepEqual([rest.data.length, rest.has_more], [3, false]);
    assert.deepEqual((await own(`?after=${made[22]}`)).json, {
      object: 'list',
      data: [],
      first_id: null,
      last_id: null,
      has_more: false,
    });
    assert.deepEqual((await own('?limit=0')).json, {
      object: 'list',
      data: [],
      first_id: null,
      last_id: null,
      has_more: false,
    });

    const client = new OpenAI({ baseURL: `${f.server.url}/v1`, apiKey: key });
    const seen: string[] = [];
    for await (const batch of client.batches.list({ limit: 7 })) seen.push(batch.id);
    assert.deepEqual(seen, made);
    assert.ok(!(await list('?limit=100')).json.data.some((one: { id: string }) => made.includes(one.id)));
  });

  test('is refused for a limit or a place that can not be', async () => {
    assertOpenAiRefused(
      await list('?limit=101'),
      400,
      "Invalid 'limit': integer above maximum value. Expected a value <= 100, but got 101 instead.",
      'limit',
      'integer_above_max_value',
    );
    assertOpenAiRefused(
      await list('?limit=-1'),
      400,
      "Invalid 'limit': integer below minimum value. Expected a value >= 0, but got -1 instead.",
      'limit',
      'integer_below_min_value',
    );
    for (const limit of ['x', '', '1.5']) assert.equal((await list(`?limit=${limit}`)).json.error.param, 'limit');
    for (const after of ['foo', 'batch_1'])
      assertOpenAiRefused(
        await list(`?after=${after}`),
        400,
        `Invalid 'after': '${after}'. Expected an ID that begins with 'BATCH'.`,
        'after',
        'invalid_value',
      );
    assert.equal((await list('?limit=5&timeout=120&order=asc')).status, 200, 'what is unknown is ignored');
  });
});

describe('a cancel', () => {
  test('while it is validated ends it without lines and files', async () => {
    const queue = await f.queue();
    const fileId = await upload(jsonl([line('a', queue)]));
    const id = await steps.whileFilesAreHeld(async () => {
      const { json: made } = await tryCreate({ input_file_id: fileId });
      const answer = await cancel(made.id);
      assert.equal(answer.status, 200);
      // With nothing to withdraw and nothing to write, it may be through with it by the time it is asked what it is.
      assert.match(answer.json.status, /^(cancelling|cancelled)$/);
      assert.ok(answer.json.cancelling_at >= made.created_at);
      assert.equal((await cancel(made.id)).status, 200);
      return made.id;
    });
    const done = await become(id, 'cancelled');
    assert.deepEqual(timesOf(done), ['cancelling_at', 'cancelled_at']);
    assert.deepEqual(done.request_counts, { total: 0, completed: 0, failed: 0 });
    assert.deepEqual([done.output_file_id, done.error_file_id, done.errors], [null, null, null]);
  });

  test('while it runs keeps what was answered and has a line for all others, taken or not', async () => {
    const { id, lane } = await run(600);
    const [answered, refused, held] = [await f.takeOne(lane), await f.takeOne(lane), await f.takeOne(lane)];
    await f.complete(answered.task_id);
    await f.complete(refused.task_id, { error: {} }, { status_code: 400 });
    // As Python and Ruby send it: a content type, no body.
    const answer = await f.client('POST', `/v1/batches/${id}/cancel?timeout=120`, '', {
      headers: { 'Content-Type': 'application/json' },
    });
    assert.deepEqual([answer.status, answer.json.status], [200, 'cancelling'], answer.text);
    const done = await become(id, 'cancelled');
    assert.deepEqual(
      timesOf(done).filter((name) => name !== 'finalizing_at'),
      ['in_progress_at', 'cancelling_at', 'cancelled_at'],
    );
    assert.deepEqual(done.request_counts, { total: 600, completed: 1, failed: 1 });
    const { output, errors } = await files(done);
    assert.deepEqual([output.length, errors.length], [1, 599]);
    assert.equal(errors.filter((one) => one.error?.code === 'batch_cancelled' && one.response === null).length, 598);
    assert.equal(new Set([...output, ...errors].map((one) => one.custom_id)).size, 600);
    assert.equal((await f.complete(held.task_id)).status, 409);
    assert.deepEqual(await f.take(lane, { size: 100 }), []);
    assert.equal((await f.worker('GET', `/v1/queue/${lane}/stats`)).json.waiting, 0);
    const again = await cancel(id);
    assert.deepEqual([again.status, again.json], [200, done], 'once more changes nothing');
  });

  test('of a paused batch ends it', async () => {
    const { id } = await run(3);
    await become(id, 'in_progress');
    await f.client('POST', `/v1/batches/${id}/pause`);
    await cancel(id);
    assert.equal((await files(await become(id, 'cancelled'))).errors.length, 3);
  });

  test('of what has ended is a conflict, which the SDK does not repeat', async () => {
    const failed = await create('{}\n');
    await become(failed.id, 'failed');
    const { id, lane } = await run(1);
    await steps.answerAll(id, lane);
    for (const [one, status] of [
      [failed.id, 'failed'],
      [id, 'completed'],
    ]) {
      const answer = await cancel(one);
      assertOpenAiRefused(answer, 409, `Cannot cancel a batch with status '${status}'.`);
      assert.equal(answer.headers.get('x-should-retry'), 'false');
    }
    let requests = 0;
    const client = new OpenAI({
      baseURL: `${f.server.url}/v1`,
      apiKey: f.keys.client,
      fetch: (...sent) => {
        requests++;
        return fetch(...sent);
      },
    });
    await assert.rejects(client.batches.cancel(id), OpenAI.ConflictError);
    assert.equal(requests, 1);
  });
});

test("a line's task says whose it is, and lists and feeds can be asked for a batch", async () => {
  const { id, lane } = await run(3);
  const other = await run(1);
  const list = async (query: string, caller = f.client) => (await caller('GET', `/v1/tasks?batch_id=${query}`)).json;
  // in_progress is before the lines are tasks, of which the feed would tell.
  await until(async () => (await list(id)).data.length === 3);
  const feed = await openStream(f.server, 'GET', `/v1/events?batch_id=${id}`, undefined, { key: f.keys.client });
  const foreign = await openStream(f.server, 'GET', `/v1/events?batch_id=${id}`, undefined, { key: f.keys.other });
  const task = await f.takeOne(lane);
  assert.deepEqual(
    [task.batch_id, task.custom_id, task.trace_id, task.response_mode, task.status],
    [id, 'c0', id, 'batch', 'waiting'],
  );
  assert.deepEqual([task.level, task.endpoint, task.attempt, 'instance_id' in task], [1, CHAT, 1, false]);
  assert.deepEqual(task.data, { model: lane.slice(0, -2), messages: [{ role: 'user', content: 'hi' }] });
  const told = (await f.client('GET', `/v1/queue/${task.task_id}`)).json;
  assert.deepEqual(
    [told.batch_id, told.custom_id, told.trace_id, told.status, told.response_mode],
    [id, 'c0', id, 'running', 'batch'],
  );
  assert.equal((await f.other('GET', `/v1/queue/${task.task_id}`)).status, 404);
  await f.takeOne(other.lane);
  await f.complete(task.task_id);

  const all = await list(id);
  assert.deepEqual(
    all.data.map((one: { custom_id: string }) => one.custom_id),
    ['c2', 'c1', 'c0'],
    'newest first',
  );
  assert.equal(all.has_more, false);
  const page = await list(`${id}&limit=2&order=asc`);
  assert.deepEqual([page.data.map((one: { custom_id: string }) => one.custom_id), page.has_more], [['c0', 'c1'], true]);
  const next = await list(`${id}&limit=2&order=asc&after=${page.data[1].task_id}`);
  assert.deepEqual([next.data.map((one: { custom_id: string }) => one.custom_id), next.has_more], [['c2'], false]);
  assert.deepEqual(
    (await list(`${id}&status=succeeded`)).data.map((one: { custom_id: string }) => one.custom_id),
    ['c0'],
  );
  assert.equal((await list(`${id}&status=waiting`)).data.length, 2);
  assert.equal((await list(`${id}&queue=${other.queue}`)).data.length, 0);
  assert.deepEqual((await list(id, f.other)).data, []);
  assert.deepEqual((await list('nonsense')).data, []);

  await f.put(other.queue);
  const seen = [await feed.next(), await feed.next()].map((event) => JSON.parse(event?.data ?? ''));
  assert.deepEqual(
    seen.map((event) => [event.type, event.task_id, event.batch_id]),
    [
      ['started', task.task_id, id],
      ['completed', task.task_id, id],
    ],
  );
  assert.equal(foreign.raw.replaceAll(/^:.*\n*/gm, ''), '', 'another tenant is told nothing');
  feed.close();
  foreign.close();
  await until(async () => (await cancel(id)).status === 200);
});
