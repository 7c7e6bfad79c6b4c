import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { formHeaders, multipart } from '../support/multipart.ts';
import { batchSteps, jsonl, line } from './batch-steps.ts';
import { assertOpenAiRefused, CHAT, EMBED, fixture } from './fixture.ts';

const MAX_LINES = 2000;
const f = fixture({ TASKLANE_BATCH_MAX_LINES: String(MAX_LINES) });
const steps = batchSteps(f);
const { create, errorsOf, answerAll, files } = steps;

const fault = (number: number | null, code: string, message: string, param: string | null = null) => ({
  code,
  message,
  param,
  line: number,
});
const missing = (number: number, name: string) =>
  fault(number, 'missing_required_parameter', `Missing required parameter: '${name}'.`, name);
const duplicate = (number: number, id: string) =>
  fault(
    number,
    'duplicate_custom_id',
    `The custom_id '${id}' for this request is a duplicate of another request. The custom_id parameter must be unique for each request in a batch.`,
    'custom_id',
  );
const notJson = (number: number) => fault(number, 'invalid_json_line', 'This line is not parseable as valid JSON.');
const noModel = (number: number, model: string) =>
  fault(number, 'model_not_found', `The provided model '${model}' is not supported by the Batch API.`, 'body.model');

const written = (...lines: unknown[]) =>
  lines.map((one) => (typeof one === 'string' ? one : JSON.stringify(one))).join('\n');

describe('the faults of an input', () => {
  test('say where else a model is served', async () => {
    const queue = await f.queue('/v1/embeddings');
    await f.worker('POST', '/v1/channels', {
      endpoint: '/v1/responses',
      model: queue,
      queue: await f.queue('/v1/responses'),
    });
    const { errors } = await steps.become((await create(jsonl([line('a', queue)]))).id, 'failed');
    const message = `The provided model '${queue}' is not served at ${CHAT}, but at /v1/embeddings, /v1/responses.`;
    assert.deepEqual(errors.data, [fault(1, 'model_not_found', message, 'body.model')]);
  });

  test('are all told, in the order of the lines, which are counted as an editor does', async () => {
    const queue = await f.queue();
    const body = { model: queue, messages: [] };
    const input = written(
      line('a', queue),
      '',
      '{"custom_id": nonsense}',
      '   \t\r',
      line('a', queue),
      line(undefined, queue),
      line('b', queue, { method: undefined, url: null }),
      line('c', queue, { body: undefined }),
      line('d', queue, { url: '/v1/embeddings' }),
      line('e', queue, { method: 'GET' }),
      line('f', 'nobody'),
      line('g', undefined),
      line('h', queue, { body: { model: queue } }),
      line('i', queue, { body: { ...body, stream: true } }),
      line('j', queue, { body: 'text' }),
      line('', queue),
      line(7, queue),
      line('x'.repeat(513), queue),
      '[1]',
      '"text"',
      'null',
      line('k', 7),
      line('l', queue, { method: 'post', url: `${CHAT}/` }),
      line('good', queue),
      line('good', 'nobody', { method: 'PUT' }),
      line('m', queue, { body: { ...body, stream: false, n: 1 } }),
      '{"custom_id":"n"',
    );
    const errors = await errorsOf(input);
    const url = 'The URL provided for this request does not match the batch endpoint.';
    const method = (value: string) => `Invalid value: '${value}'. Supported values are: 'POST'.`;
    const customId =
      "Invalid 'custom_id': expected a string that is not empty, of characters that UTF-8 has, without NUL.";
    assert.deepEqual(errors, [
      notJson(3),
      duplicate(5, 'a'),
      missing(6, 'custom_id'),
      missing(7, 'method'),
      missing(7, 'url'),
      missing(8, 'body'),
      fault(9, 'invalid_url', url, 'url'),
      fault(10, 'invalid_method', method('GET'), 'method'),
      noModel(11, 'nobody'),
      fault(12, 'invalid_request', 'Model parameter is required.', 'body.model'),
      fault(13, 'invalid_request', 'Messages parameter is required.', 'body.messages'),
      fault(
        14,
        'streaming_unsupported',
        'Chat Completions: Streaming is not supported in the Batch API.',
        'body.stream',
      ),
      fault(15, 'invalid_type', "Invalid type for 'body': expected an object.", 'body'),
      fault(16, 'invalid_value', customId, 'custom_id'),
      fault(17, 'invalid_value', customId, 'custom_id'),
      fault(
        18,
        'string_above_max_length',
        "Invalid 'custom_id': string too long. Expected a string with maximum length 512, but got a string with length 513 instead.",
        'custom_id',
      ),
      notJson(19),
      notJson(20),
      notJson(21),
      fault(22, 'invalid_request', 'Model parameter is required.', 'body.model'),
      fault(23, 'invalid_method', method('post'), 'method'),
      fault(23, 'invalid_url', url, 'url'),
      duplicate(25, 'good'),
      fault(25, 'invalid_method', method('PUT'), 'method'),
      noModel(25, 'nobody'),
      notJson(27),
    ]);
    for (const error of errors) assert.deepEqual(Object.keys(error), ['code', 'message', 'param', 'line']);
  });

  test('end the batch as failed, at once and without files', async () => {
    const made = await create('{}\n');
    const failed = await steps.become(made.id, 'failed');
    assert.ok(failed.failed_at >= failed.created_at);
    assert.deepEqual(
      [failed.in_progress_at, failed.finalizing_at, failed.output_file_id, failed.error_file_id, failed.model],
      [null, null, null, null, null],
    );
    assert.equal(failed.errors.data.length, 4, 'what is missing is told once a field');
  });

  test('are not those of other endpoints: messages are only for chats, and streaming is refused everywhere', async () => {
    const queue = await f.queue('/v1/responses');
    const of = (customId: string, body: object) =>
      line(customId, queue, { url: '/v1/responses', body: { model: queue, ...body } });
    assert.deepEqual(
      await errorsOf(written(of('a', { input: 'x' }), of('b', { stream: true })), { endpoint: '/v1/responses' }),
      [fault(2, 'streaming_unsupported', 'Responses: Streaming is not supported in the Batch API.', 'body.stream')],
    );
  });

  test('come from a file that has no lines at all, even with line breaks', async () => {
    // What is nothing but blank is refused at the upload.
    const answer = await f.client(
      'POST',
      '/v1/files',
      multipart([
        { name: 'purpose', value: 'batch' },
        { name: 'file', value: '\n\r\n  \n', filename: 'in.jsonl' },
      ]),
      { headers: formHeaders() },
    );
    assertOpenAiRefused(answer, 400, 'File is empty.', 'file');
  });

  test('name the fault even where it is bytes that are no UTF-8: those are refused at the upload', async () => {
    const bytes = Buffer.concat([Buffer.from(jsonl([line('a', 'm')])), Buffer.from([0x22, 0xff, 0x22])]);
    const answer = await f.client(
      'POST',
      '/v1/files',
      multipart([
        { name: 'file', value: bytes, filename: 'in.jsonl' },
        { name: 'purpose', value: 'batch' },
      ]),
      { headers: formHeaders() },
    );
    assertOpenAiRefused(answer, 400, 'Invalid file for Batch API. Must be utf-8 encoded');
  });

  test('are at most 1,000', async () => {
    const errors = await errorsOf(`{}\n${'x\n'.repeat(1500)}`);
    assert.equal(errors.length, 1000);
    assert.deepEqual(errors.at(-1), notJson(997));
  });

  test('include too many lines, blank ones not counted', async () => {
    const queue = await f.queue();
    const many = (count: number) => Array.from({ length: count }, (_, n) => line(`c${n}`, queue));
    const { id } = await create(jsonl(many(MAX_LINES)).replaceAll('\n', '\n\n'));
    assert.equal((await steps.become(id, 'in_progress')).request_counts.total, MAX_LINES);
    await f.client('POST', `/v1/batches/${id}/cancel`);
    assert.deepEqual(await errorsOf(jsonl(many(MAX_LINES + 1))), [
      fault(
        null,
        'too_many_tasks',
        `The input file has more than ${MAX_LINES} requests, which is the most a batch may have.`,
      ),
    ]);
  });

  test('include more than 50,000 inputs of embeddings in all', async () => {
    const queue = await f.queue(EMBED);
    const of = (customId: string, input: unknown) =>
      line(customId, queue, { url: EMBED, body: { model: queue, input } });
    const strings = (count: number) => Array.from({ length: count }, () => 'x');
    const endpoint = { endpoint: EMBED };
    const tokens = Array.from({ length: 60_000 }, () => 1);
    const { id } = await create(written(of('a', strings(49_998)), of('b', tokens), of('c', 'text')), endpoint);
    await steps.become(id, 'in_progress');
    await f.client('POST', `/v1/batches/${id}/cancel`);
    const errors = await errorsOf(written(of('a', strings(49_999)), of('b', [[1], [2]])), endpoint);
    assert.deepEqual(
      errors.map((error) => [error.code, error.param, error.line]),
      [['too_many_tasks', 'body.input', null]],
    );
  });

  test('include a line that is longer than a body may be, of which nothing else is said', async () => {
    const queue = await f.queue();
    const long = JSON.stringify(line('a', queue, { body: { model: queue, messages: ['x'.repeat(10 * 1024 * 1024)] } }));
    const errors = await errorsOf(written(line('b', queue), long, line('b', queue)));
    assert.deepEqual(errors, [
      fault(2, 'line_too_long', `This line is longer than ${10 * 1024 * 1024} bytes.`),
      duplicate(3, 'b'),
    ]);
  });
});

describe('an input', () => {
  test('may begin with a BOM, have CRLF and blank lines, and lack its last line break', async () => {
    const queue = await f.queue();
    const text = `\ufeff${[line('a', queue), '', line('b', queue), '  \t ', line('c', queue)]
      .map((one) => (typeof one === 'string' ? one : JSON.stringify(one)))
      .join('\r\n')}`;
    const { id } = await create(text);
    const { output } = await files(await answerAll(id, `${queue}:1`));
    assert.deepEqual(
      output.map((one) => one.custom_id),
      ['a', 'b', 'c'],
      'in the order of the input',
    );
  });

  test('of moderations may leave the model out, as at the front door', async () => {
    const endpoint = '/v1/moderations';
    const queue = await f.queue(endpoint);
    await f.worker('POST', '/v1/channels', { endpoint, model: 'omni-moderation-latest', queue });
    const { id } = await create(jsonl([line('a', '', { url: endpoint, body: { input: 'x' } })]), { endpoint });
    const done = await steps.answerAll(id, `${queue}:1`);
    assert.deepEqual([done.status, done.model], ['completed', 'omni-moderation-latest']);
  });

  test('has its bodies handed out to the letter', async () => {
    const queue = await f.queue();
    const bodies = [
      `{"model":"${queue}","messages":[{"content":"Grüezi 👋 \\u0000 \\ud800 \\u00e4 \\n"}],"n":1.0}`,
      `{ "messages" : [ ] , "model" : "${queue}" , "big" : 12345678901234567890 , "e" : 1E5 , "dup":1, "dup":2 }`,
    ];
    const text = bodies
      .map(
        (body, n) =>
          `{ "body" : ${body} ,"url":"${CHAT}","method":"POST","custom_id":"\\u0063${n} 👋\\n","more":[{}]}\n`,
      )
      .join('');
    const { id } = await create(text);
    for (const [n, body] of bodies.entries()) {
      const answer = await f.worker('POST', '/v1/queue/take', { queues: [`${queue}:1`], size: 1, wait: 10 });
      const [task] = answer.json[`${queue}:1`];
      assert.equal(task.custom_id, `c${n} 👋\n`);
      assert.ok(answer.text.includes(`"data":${body}`), answer.text);
      await f.complete(task.task_id);
    }
    const { output } = await files(await steps.become(id, 'completed'));
    assert.deepEqual(
      output.map((one) => one.custom_id),
      ['c0 👋\n', 'c1 👋\n'],
    );
  });

  test('may have a line of 10 MB', async () => {
    const queue = await f.queue();
    const content = 'x'.repeat(10_000_000);
    const { id } = await create(
      jsonl([
        line('a', queue),
        line('big', queue, { body: { model: queue, messages: [{ content }] } }),
        line('b', queue),
      ]),
    );
    const sizes = new Map<string, number>();
    const done = await answerAll(id, `${queue}:1`, (task) => {
      sizes.set(task.custom_id, task.data.messages[0].content.length);
      return {};
    });
    assert.deepEqual(done.request_counts, { total: 3, completed: 3, failed: 0 });
    assert.equal(sizes.get('big'), content.length);
  });
});

describe('the line of an answer', () => {
  /** Runs one line and gives its text in its file. */
  async function lineFor(answer: object | string): Promise<{ text: string; isOutput: boolean; taskId: string }> {
    const queue = await f.queue();
    const { id } = await create(jsonl([line('row-1 👋', queue)]));
    const task = await f.takeOne(`${queue}:1`);
    const sent = await f.worker('POST', `/v1/queue/${task.task_id}/complete`, answer);
    assert.equal(sent.status, 200, sent.text);
    const done = await steps.become(id, 'completed');
    assert.ok((done.output_file_id === null) !== (done.error_file_id === null));
    const text = await steps.content(done.output_file_id ?? done.error_file_id);
    return { text, isOutput: done.output_file_id !== null, taskId: task.task_id };
  }

  test('has an id, the custom id, status, request id and body, in the output file', async () => {
    const { text, isOutput } = await lineFor({ status_code: 200, request_id: 'req "1"', body: { id: 'x', n: 1 } });
    const id = /"id":"(batch_req_[0-9a-f]{32})"/.exec(text)?.[1];
    assert.equal(
      text,
      `{"id":"${id}","custom_id":"row-1 👋","response":{"status_code":200,"request_id":"req \\"1\\"","body":{"id":"x","n":1}},"error":null}\n`,
    );
    assert.ok(isOutput);
  });

  test('names the task where the worker named no request', async () => {
    const { text, taskId } = await lineFor({ status_code: 201, body: null });
    assert.deepEqual(JSON.parse(text).response, { status_code: 201, request_id: taskId, body: null });
  });

  test('is in the error file for any other status, its error null', async () => {
    for (const status of [400, 429, 500, 302]) {
      const body = { error: { message: 'no', type: 'x', param: null, code: 'y' } };
      const { text, isOutput } = await lineFor({ status_code: status, body });
      const { response, error } = JSON.parse(text);
      assert.deepEqual([isOutput, error, response.status_code, response.body], [false, null, status, body]);
    }
  });

  test('is one line however the worker wrote its body, and to the letter but for line breaks', async () => {
    const body =
      '{\r\n  "text": "a\\nb\\u0000 \\ud83d ü 👋\\u2028\u2028",\n\t"n": 1.0,\n  "usage": {"total_tokens": 3}\n}';
    const { text } = await lineFor(`{"status_code":200,"body":${body}}`);
    assert.equal(text.indexOf('\n'), text.length - 1);
    assert.ok(text.includes(body.replaceAll(/[\r\n]/g, ' ')), text);
  });

  test('may hold what is no object, and usage that can not be read', async () => {
    for (const body of [
      '"text"',
      '[1,2]',
      '7',
      '{"usage":{"total_tokens":"many","prompt_tokens":-1}}',
      '{"usage":[]}',
      '{"usage":null}',
    ]) {
      const { text } = await lineFor(`{"status_code":200,"body":${body}}`);
      assert.deepEqual(JSON.parse(text).response.body, JSON.parse(body));
    }
  });
});

test('a line that is tried in vain, cancelled alone or too late says so in the error file', async () => {
  const queue = await f.queue(CHAT, { max_attempts: 1 });
  const { id } = await create(jsonl(['a', 'b', 'c'].map((customId) => line(customId, queue))));
  const [dead, cancelled, good] = [
    await f.takeOne(`${queue}:1`),
    await f.takeOne(`${queue}:1`),
    await f.takeOne(`${queue}:1`),
  ];
  await f.worker('POST', `/v1/queue/${dead.task_id}/release`, {});
  assert.equal((await f.client('POST', `/v1/queue/${cancelled.task_id}/cancel`)).status, 202);
  await f.complete(good.task_id);
  const done = await steps.become(id, 'completed');
  assert.deepEqual(done.request_counts, { total: 3, completed: 1, failed: 2 });
  const { errors } = await files(done);
  assert.deepEqual(
    errors.map(({ id: lineId, ...rest }) => rest),
    [
      {
        custom_id: 'a',
        response: null,
        error: {
          code: 'attempts_exhausted',
          message: 'This request was tried as often as it may be, and got no answer.',
        },
      },
      { custom_id: 'b', response: null, error: { code: 'request_cancelled', message: 'This request was cancelled.' } },
    ],
  );
  for (const one of errors) assert.match(one.id, /^batch_req_[0-9a-f]{32}$/);
  const replay = await f.client('POST', `/v1/queue/${dead.task_id}/replay`);
  assert.equal(replay.status, 409, 'a line is not replayed by itself');
});

test('a line that dies with an answer of the model server has it as its response, in the file and in results', async () => {
  const queue = await f.queue(CHAT, { max_attempts: 1, refusal_seconds: 0 });
  const { id } = await create(jsonl(['a', 'b', 'c'].map((customId) => line(customId, queue))));
  const [failed, refused, good] = [
    await f.takeOne(`${queue}:1`),
    await f.takeOne(`${queue}:1`),
    await f.takeOne(`${queue}:1`),
  ];
  await f.worker(
    'POST',
    `/v1/queue/${failed.task_id}/release`,
    '{"answer":{"status_code":500,"request_id":"up","body":{"error":{"message":"CUDA",\n"n":1.0}}}}',
  );
  await f.worker('POST', `/v1/queue/${refused.task_id}/release`, {
    begun: false,
    answer: { status_code: 429, body: { error: { message: 'slow down' } } },
  });
  await f.complete(good.task_id);
  const done = await steps.become(id, 'completed');
  assert.deepEqual(done.request_counts, { total: 3, completed: 1, failed: 2 });
  const { errors } = await files(done);
  const responses = errors.map(({ custom_id, response, error }) => [custom_id, response, error]);
  assert.deepEqual(responses, [
    ['a', { status_code: 500, request_id: 'up', body: { error: { message: 'CUDA', n: 1 } } }, null],
    ['b', { status_code: 429, request_id: refused.task_id, body: { error: { message: 'slow down' } } }, null],
  ]);
  const results = (await f.client('GET', `/v1/batches/${id}/results`)).json.data;
  assert.deepEqual(
    results.slice(0, 2).map((one: Record<string, unknown>) => [one.custom_id, one.response, one.error]),
    responses,
  );
  const again = await f.client('POST', `/v1/batches/${id}/retry_failed`);
  assert.equal(again.status, 200, again.text);
  assert.equal((await steps.become(again.json.id, 'in_progress')).request_counts.total, 2);
});

test('a line that is given back is tried again, and answered once', async () => {
  const queue = await f.queue(CHAT, { retry: { initial_seconds: 0, jitter: false } });
  const { id } = await create(jsonl([line('a', queue)]));
  const task = await f.takeOne(`${queue}:1`);
  await f.worker('POST', `/v1/queue/${task.task_id}/release`, { delay_seconds: 0, attempt: 1 });
  const again = await f.takeOne(`${queue}:1`);
  assert.deepEqual([again.task_id, again.attempt, again.custom_id], [task.task_id, 2, 'a']);
  assert.equal((await f.complete(task.task_id, {}, { attempt: 1 })).status, 409);
  await f.complete(task.task_id, { answer: 2 }, { attempt: 2 });
  const { output } = await files(await steps.become(id, 'completed'));
  assert.deepEqual(
    output.map((one) => one.response.body),
    [{ answer: 2 }],
  );
});
