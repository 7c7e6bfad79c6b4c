import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { batchSteps, jsonl, line } from './batch-steps.ts';
import { assertOpenAiRefused, CHAT, EMBED, fixture } from './fixture.ts';

const f = fixture();
const steps = batchSteps(f);
const { upload, tryCreate, create } = steps;

describe('a create', () => {
  const good = async () => ({ input_file_id: await upload(jsonl([line('a', 'm')])) });

  test('is refused for what is missing or wrong, in words that name the field', async () => {
    const { input_file_id: fileId } = await good();
    const missing = (name: string) => [`Missing required parameter: '${name}'.`, name, 'missing_required_parameter'];
    const faults: [object, string | RegExp, string | null, string | null][] = [
      [{ input_file_id: undefined }, ...missing('input_file_id')],
      [{ endpoint: undefined }, ...missing('endpoint')],
      [{ completion_window: undefined }, ...missing('completion_window')],
      [
        { input_file_id: 7 },
        "Invalid type for 'input_file_id': expected a string, but got a number instead.",
        'input_file_id',
        'invalid_type',
      ],
      [
        { endpoint: '/v1/foo' },
        "Invalid value: '/v1/foo'. Supported values are: '/v1/responses', '/v1/chat/completions', '/v1/embeddings', '/v1/completions', '/v1/moderations', '/v1/images/generations', '/v1/images/edits', and '/v1/videos'.",
        'endpoint',
        'invalid_value',
      ],
      [
        { metadata: 'x' },
        "Invalid type for 'metadata': expected an object, but got a string instead.",
        'metadata',
        'invalid_type',
      ],
      [
        { metadata: ['x'] },
        "Invalid type for 'metadata': expected an object, but got an array instead.",
        'metadata',
        'invalid_type',
      ],
      [
        { metadata: { tags: ['x'] } },
        "Invalid type for 'metadata.tags': expected a string, but got an array instead.",
        'metadata.tags',
        'invalid_type',
      ],
      [
        { metadata: { n: 1 } },
        "Invalid type for 'metadata.n': expected a string, but got a number instead.",
        'metadata.n',
        'invalid_type',
      ],
      [
        { metadata: { n: 'a\0' } },
        "Invalid 'metadata.n': must not contain a NUL character.",
        'metadata.n',
        'invalid_value',
      ],
      [
        { endpoint: 5 },
        /^Invalid type for 'endpoint': expected '\/v1\/responses', .+ or '\/v1\/videos', but got a number instead\.$/,
        'endpoint',
        'invalid_type',
      ],
      [
        { metadata: Object.fromEntries(Array.from({ length: 24 }, (_, n) => [`k${n}`, ''])) },
        "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got an object with 24 properties instead.",
        'metadata',
        'object_above_max_properties',
      ],
      [
        { metadata: { k: 'x'.repeat(600) } },
        "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, but got a string with length 600 instead.",
        'metadata.k',
        'string_above_max_length',
      ],
      [
        { output_expires_after: { anchor: 'created_at', seconds: 60 } },
        "Invalid 'output_expires_after.seconds': integer below minimum value. Expected a value >= 3600, but got 60 instead.",
        'output_expires_after.seconds',
        'integer_below_min_value',
      ],
      [
        { output_expires_after: { anchor: 'created_at', seconds: 2_592_001 } },
        "Invalid 'output_expires_after.seconds': integer above maximum value. Expected a value <= 2592000, but got 2592001 instead.",
        'output_expires_after.seconds',
        'integer_above_max_value',
      ],
      [
        { output_expires_after: { anchor: 'now', seconds: 3600 } },
        "Invalid value: 'now'. Supported values are: 'created_at'.",
        'output_expires_after.anchor',
        'invalid_value',
      ],
      [{ output_expires_after: { anchor: 'created_at' } }, ...missing('output_expires_after.seconds')],
    ] as never;
    for (const [body, message, param, code] of faults)
      assertOpenAiRefused(await tryCreate({ input_file_id: fileId, ...body }), 400, message, param, code);
    const longKey = await tryCreate({ input_file_id: fileId, metadata: { ['k'.repeat(65)]: '' } });
    assert.deepEqual([longKey.status, longKey.json.error.code], [400, 'string_above_max_length'], longKey.text);
    const sixteen = Object.fromEntries(Array.from({ length: 16 }, (_, n) => [`${n}`.padEnd(64, 'k'), 'v'.repeat(512)]));
    assert.equal((await tryCreate({ input_file_id: fileId, metadata: sixteen })).status, 200);
  });

  test('is refused without a body, and for one that is no JSON or no object', async () => {
    for (const body of [undefined, '']) {
      const answer = await f.client('POST', '/v1/batches', body);
      assert.equal(answer.status, 400, answer.text);
      assertOpenAiRefused(answer, 400, /^We could not parse the JSON body of your request\. /);
    }
    assertOpenAiRefused(
      await f.client('POST', '/v1/batches', '{"a":'),
      400,
      /^We could not parse the JSON body of your request\. /,
    );
    for (const body of ['[]', '"x"', 'null', '7'])
      assert.equal((await f.client('POST', '/v1/batches', body)).status, 400, body);
  });

  test('takes windows of seconds, minutes, hours and days up to 30 days, and says back what was written', async () => {
    const body = await good();
    for (const [window, seconds] of [
      ['90s', 90],
      ['30m', 1800],
      ['12h', 43_200],
      ['7d', 604_800],
      ['30d', 2_592_000],
    ] as const) {
      const { status, json, text } = await tryCreate({ ...body, completion_window: window });
      assert.equal(status, 200, text);
      assert.deepEqual([json.completion_window, json.expires_at - json.created_at], [window, seconds]);
    }
    for (const window of [
      '5',
      '24',
      'h',
      '0s',
      '-1h',
      '31d',
      '24H',
      ' 24h',
      '24h ',
      '1.5h',
      '24h\n',
      '1e3s',
      '99999999999s',
      '',
      '24 h',
      '1w',
    ])
      assertOpenAiRefused(
        await tryCreate({ ...body, completion_window: window }),
        400,
        `Invalid value: '${window}'. Supported values are: '24h', and any time up to 30 days such as '90s', '30m', '12h' or '7d'.`,
        'completion_window',
        'invalid_value',
      );
    assertOpenAiRefused(
      await tryCreate({ ...body, completion_window: 24 }),
      400,
      "Invalid type for 'completion_window': expected a string, but got a number instead.",
      'completion_window',
      'invalid_type',
    );
  });

  test("needs a file of one's own for batches", async () => {
    const foreign = await upload(jsonl([line('a', 'm')]), f.other);
    for (const fileId of ['file-none', foreign, 'queue', '%']) {
      assertOpenAiRefused(
        await tryCreate({ input_file_id: fileId }),
        404,
        `No such File object: ${fileId}`,
        'input_file_id',
      );
    }
    const vision = await upload('hello', f.client, 'user_data');
    assertOpenAiRefused(
      await tryCreate({ input_file_id: vision }),
      400,
      "Input file must have purpose 'batch', got 'user_data'",
      'input_file_id',
    );
    for (const fileId of ['', 'a\0b', 'x'.repeat(5000)]) {
      const { status, json } = await tryCreate({ input_file_id: fileId });
      assert.deepEqual([status, json.error.param], [400, 'input_file_id']);
      assert.doesNotMatch(json.error.message, /byte sequence/);
    }
  });

  test('with X-BELLA-QUEUE-NAME sends every line there, with or without a model', async () => {
    const queue = await f.queue();
    const none = line('a', undefined);
    const { id } = await create(
      jsonl([none, line('b', 'whatever'), line('c', 'other')]),
      {},
      { 'X-BELLA-QUEUE-NAME': queue },
    );
    const done = await steps.answerAll(id, `${queue}:1`);
    assert.deepEqual([done.status, done.request_counts.completed, done.model], ['completed', 3, null]);

    const body = await good();
    assertOpenAiRefused(
      await tryCreate(body, { 'X-BELLA-QUEUE-NAME': 'nobody' }),
      404,
      /unknown queue "nobody"/,
      'X-BELLA-QUEUE-NAME',
    );
    const embed = await f.queue(EMBED);
    assertOpenAiRefused(
      await tryCreate(body, { 'X-BELLA-QUEUE-NAME': embed }),
      400,
      /is registered for endpoint/,
      'X-BELLA-QUEUE-NAME',
    );
  });

  test('goes by channels as well as by queues named like the model', async () => {
    const queue = await f.queue();
    const model = 'org/model:1 "ü"';
    const channel = await f.admin('POST', '/v1/channels', { endpoint: CHAT, model, queue });
    assert.equal(channel.status, 200, channel.text);
    const { id } = await create(jsonl([line('a', model), line('b', queue)]));
    const done = await steps.answerAll(id, `${queue}:1`);
    assert.deepEqual([done.status, done.request_counts.completed, done.model], ['completed', 2, null]);
  });

  test('with output_expires_after has files that expire by it', async () => {
    const queue = await f.queue();
    const { id } = await create(jsonl([line('a', queue), line('b', queue)]), {
      output_expires_after: { anchor: 'created_at', seconds: 3600 },
    });
    let n = 0;
    const done = await steps.answerAll(id, `${queue}:1`, () => ({ status_code: n++ ? 200 : 400 }));
    for (const fileId of [done.output_file_id, done.error_file_id]) {
      const file = (await f.client('GET', `/v1/files/${fileId}`)).json;
      assert.equal(file.expires_at, file.created_at + 3600);
    }
  });

  test('with an Idempotency-Key is one batch however often it is sent', async () => {
    const body = await good();
    const headers = { 'Idempotency-Key': 'once' };
    const [first, ...others] = await Promise.all(Array.from({ length: 5 }, () => tryCreate(body, headers)));
    assert.equal(first?.status, 200, first?.text);
    for (const other of others) assert.equal(other.json.id, first?.json.id, other.text);
    assert.equal((await tryCreate(body, headers)).json.id, first?.json.id);
    const other = await tryCreate({ ...body, completion_window: '1h' }, headers);
    assertOpenAiRefused(other, 409, /this idempotency key was used for another body/);
    assert.equal(other.headers.get('x-should-retry'), 'false');
    const queued = await tryCreate(body, { ...headers, 'X-BELLA-QUEUE-NAME': await f.queue() });
    assert.equal(queued.status, 409, 'another queue is another create');
    assert.notEqual((await tryCreate(body)).json.id, (await tryCreate(body)).json.id, 'without a key each is its own');
    assertOpenAiRefused(
      await tryCreate(body, headers, f.other),
      404,
      `No such File object: ${body.input_file_id}`,
      'input_file_id',
    );
    const put = await f.client(
      'POST',
      '/v1/queue/put',
      { endpoint: CHAT, queue: await f.queue(), data: {} },
      { headers },
    );
    assert.equal(put.status, 200, 'keys of tasks are others');
    const empty = await tryCreate(body, { 'Idempotency-Key': '' });
    assert.equal(empty.status, 400, empty.text);
    assert.ok(empty.json.error.message);
  });
});
