import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { LLMock } from '@copilotkit/aimock';
import { type OpenAiOptions, openAiExecutor } from '../../../client/executors/openai.ts';
import { answered, givenBack, json, listen, recorded, work } from './support.ts';

/** A model server that we did not write. */
let mock: LLMock;
before(async () => {
  mock = await LLMock.create({ port: 0, host: '127.0.0.1', chunkSize: 4 });
  mock.onMessage('hello', { content: 'Hi there, friend' });
  mock.onMessage('tool', { toolCalls: [{ name: 'weather', arguments: '{"city":"Ulm"}' }] });
  mock.onMessage('cut', { content: 'This is cut off after a while' }, { truncateAfterChunks: 3, latency: 20 });
  mock.onEmbedding('x', { embedding: [0.5, 1] });
});
after(() => mock.stop());

const executor = (headers: Record<string, string> = {}, more: Partial<OpenAiOptions> = {}) =>
  openAiExecutor({ upstreams: [{ url: mock.url, headers }], ...more });
const asking = (content: string, more: object = {}) => ({
  model: 'llama3',
  messages: [{ role: 'user', content }],
  ...more,
});
const streaming = (endpoint: string, data: Record<string, unknown>) =>
  recorded({ endpoint, data, response_mode: 'streaming' });
const chunks = (parts: object[]) => parts.map((part) => `data: ${JSON.stringify(part)}\n\n`).join('');
const choice = (delta: object, finish_reason: string | null = null) => ({
  id: 'c1',
  model: 'm',
  choices: [{ index: 0, delta, finish_reason }],
});

describe('a server of OpenAI’s API', () => {
  test('answers chats, embeddings, moderations and responses', async () => {
    const chat = answered(await work(executor()));
    assert.equal(chat.status, 200);
    // biome-ignore lint/suspicious/noExplicitAny: what a model server answers
    assert.equal((chat.body as any).choices[0].message.content, 'Hi there, friend');
    for (const [endpoint, data, object] of [
      ['/v1/embeddings', { model: 'm', input: 'x' }, 'list'],
      ['/v1/responses', { model: 'm', input: 'hello' }, 'response'],
    ] as const) {
      const { status, body } = answered(await work(executor(), recorded({ endpoint, data })));
      assert.deepEqual([status, (body as { object: string }).object], [200, object]);
    }
    const { body } = answered(await work(executor(), recorded({ endpoint: '/v1/moderations', data: { input: 'x' } })));
    assert.ok('results' in (body as object));
  });

  test('says what it does not know, and that is the answer', async () => {
    const { status, body } = answered(await work(executor(), recorded({ data: asking('what nobody wrote down') })));
    assert.equal(status, 404);
    assert.equal((body as { error: { code: string } }).error.code, 'no_fixture_match');
  });

  test('makes 500s, malformed answers and dropped connections, which give the task back', async () => {
    for (const [chaos, reason] of [
      ['drop', /answered 500: Chaos/],
      ['malformed', /not JSON/],
      ['disconnect', /connection to the model server broke/],
    ] as const) {
      const { later } = await work(executor({ [`x-aimock-chaos-${chaos}`]: '1' }));
      assert.match(later?.reason as string, reason);
      assert.equal(later?.begun, undefined);
    }
  });

  test('limits the rate, and says when to come back', async () => {
    const { begun, delay_seconds, reason, status } = givenBack(
      await work(executor({ 'x-aimock-chaos-ratelimit': '1' })),
    );
    assert.deepEqual([begun, delay_seconds, status], [false, 1, 429]);
    assert.equal(reason, 'the model server answered 429: Chaos: rate limit exceeded');
  });

  test('gives the answer its request id', async () => {
    const { answer } = await work(executor({ 'x-request-id': 'req-7' }));
    assert.equal(answer?.request_id, 'req-7');
  });

  test('is found with and without /v1, and under any other prefix', async () => {
    await using server = await listen((_, res) => json(res, 200, {}));
    for (const [base, path] of [
      ['', '/v1/chat/completions'],
      ['/', '/v1/chat/completions'],
      ['/v1', '/v1/chat/completions'],
      ['/v1/', '/v1/chat/completions'],
      ['/api/v3', '/api/v3/chat/completions'],
      ['/openai?api-version=1', '/openai/chat/completions?api-version=1'],
    ]) {
      await work(openAiExecutor({ upstreams: [{ url: server.url + base }] }));
      assert.equal(server.requests.at(-1)?.url, path);
    }
  });

  test('is called under /v1 only, wherever a task wants to go', async () => {
    await using server = await listen((_, res) => json(res, 200, {}));
    const one = openAiExecutor({ upstreams: [{ url: server.url }] });
    for (const endpoint of ['/v1/../admin', '/admin', '/v1/x?y=1', '/v1', '/api/chat', '/v1/%2e%2e/admin']) {
      assert.equal(answered(await work(one, recorded({ endpoint }))).status, 404);
    }
    assert.equal(server.requests.length, 0);
  });
});

describe('the body of a call', () => {
  const sent = async (task: ReturnType<typeof recorded>, options: Partial<OpenAiOptions> = {}) => {
    await using server = await listen((_, res) => json(res, 200, {}));
    await work(openAiExecutor({ upstreams: [{ url: server.url }], ...options }), task);
    return JSON.parse(server.requests[0]?.body as string);
  };
  const options = { stream_options: { include_usage: true } };

  test('streams as the task does, where the endpoint can', async () => {
    const data = { model: 'm', input: 'x', stream: true, ...options };
    assert.deepEqual(await sent(recorded({ data })), { model: 'm', input: 'x' });
    for (const endpoint of ['/v1/chat/completions', '/v1/completions', '/v1/responses']) {
      assert.deepEqual(await sent(streaming(endpoint, { model: 'm', ...options })), {
        model: 'm',
        ...options,
        stream: true,
      });
    }
    assert.deepEqual(await sent(streaming('/v1/embeddings', { model: 'm', stream: true })), { model: 'm' });
  });

  test('names the model of the option in place of the task’s', async () => {
    assert.equal((await sent(recorded(), { model: 'meta/llama-3' })).model, 'meta/llama-3');
  });
});

describe('a stream', () => {
  test('is passed on unchanged, and its completion is what would have come without a stream', async () => {
    const task = streaming('/v1/chat/completions', asking('hello', { stream_options: { include_usage: true } }));
    const { body } = answered(await work(executor(), task));
    assert.ok(task.events.length > 4);
    const [[headers], ...events] = task.events as [[string, string], ...[string, string][]];
    assert.equal(headers, 'response-headers', 'the mock has a request id');
    for (const [name, data] of events) {
      assert.equal(name, 'chunk');
      assert.equal(JSON.parse(data).object, 'chat.completion.chunk');
    }
    const first = JSON.parse(events[0]?.[1] as string);
    const { id, object, created, model, choices, usage } = body as Record<string, unknown>;
    assert.deepEqual([id, object, created, model], [first.id, 'chat.completion', first.created, 'llama3']);
    const message = { role: 'assistant', content: 'Hi there, friend' };
    assert.deepEqual(choices, [{ index: 0, message, finish_reason: 'stop' }]);
    assert.deepEqual(Object.keys(usage as object), ['prompt_tokens', 'completion_tokens', 'total_tokens']);
  });

  test('of tool calls has them whole in the completion', async () => {
    const { body } = answered(await work(executor(), streaming('/v1/chat/completions', asking('tool'))));
    const [{ message, finish_reason }] = (
      body as { choices: [{ message: { tool_calls: { id: string }[] }; finish_reason: string }] }
    ).choices;
    assert.equal(finish_reason, 'tool_calls');
    const id = message.tool_calls[0]?.id;
    const call = { id, type: 'function', function: { name: 'weather', arguments: '{"city":"Ulm"}' } };
    assert.deepEqual(message, { role: 'assistant', content: null, tool_calls: [call] });
  });

  test('of the Responses API names its events, and completes with the whole response', async () => {
    const task = streaming('/v1/responses', { model: 'm', input: 'hello' });
    const { body } = answered(await work(executor(), task));
    assert.deepEqual(
      task.events.slice(0, 2).map(([name]) => name),
      ['response-headers', 'response.created'],
    );
    assert.equal(task.events.at(-1)?.[0], 'response.completed');
    const { object, status } = body as Record<string, unknown>;
    assert.deepEqual([object, status], ['response', 'completed']);
  });

  test('that breaks off in the middle is answered with 502, and not tried again', async () => {
    mock.clearRequests();
    const task = streaming('/v1/chat/completions', asking('cut'));
    const { status, body } = answered(await work(executor({}), task));
    assert.ok(task.events.length > 0);
    assert.equal(status, 502);
    const { message, type, code } = (body as { error: Record<string, string> }).error;
    assert.match(message as string, /^the connection to the model server broke|^the stream ended before its end/);
    assert.deepEqual([type, code], ['upstream_error', 'upstream_broken']);
    assert.equal(mock.getRequests().length, 1);
  });

  const from = async (text: string, endpoint = '/v1/chat/completions', type = 'text/event-stream') => {
    await using server = await listen((_, res) => res.writeHead(200, { 'Content-Type': type }).end(text));
    const task = streaming(endpoint, { model: 'm' });
    const outcome = await work(openAiExecutor({ upstreams: [{ url: server.url }] }), task);
    return { task, outcome };
  };

  test('keeps each record to the letter', async () => {
    const { task } = await from('data: {"n": 1.0, "choices":[]}\n\ndata: [DONE]\n\n');
    assert.deepEqual(task.events, [['chunk', '{"n": 1.0, "choices":[]}']]);
  });

  test('has ended with [DONE] or a finish_reason, and else has broken off', async () => {
    const said = choice({ content: 'Hi' });
    for (const text of [
      `${chunks([said])}data: [DONE]`,
      chunks([said, choice({}, 'stop')]),
      `${chunks([said])}event: x\ndata: [DONE]\n\n`,
    ])
      assert.equal(answered((await from(text)).outcome).status, 200);
    assert.equal(answered((await from(chunks([said]))).outcome).status, 502);
    assert.equal((await from('')).outcome.later?.reason, 'the stream ended before its end');
  });

  test('with an error among its records has failed', async () => {
    const error = { error: { message: 'CUDA out of memory', code: 500 } };
    const early = await from(chunks([error]));
    assert.equal(early.outcome.later?.reason, 'the model server answered in the stream: CUDA out of memory');
    const late = answered((await from(chunks([choice({ content: 'Hi' }), error]))).outcome);
    assert.deepEqual(late, { status: 500, body: error });
    assert.deepEqual(early.outcome.later?.answer, { status_code: 500, body: error });
    const flat = { type: 'error', code: 'oom', message: 'no memory', param: null, sequence_number: 3 };
    const created = { type: 'response.created', response: {} };
    assert.deepEqual(answered((await from(chunks([created, flat]), '/v1/responses')).outcome), {
      status: 502,
      body: { error: { message: 'no memory', type: 'upstream_error', param: null, code: 'oom' } },
    });
    const wordless = answered((await from(chunks([created, { type: 'error' }]), '/v1/responses')).outcome);
    assert.equal((wordless.body as { error: { code: string } }).error.code, 'upstream_broken');
    const garbled = await from('data: {"choices":\n\n');
    assert.match(garbled.outcome.later?.reason as string, /not JSON/);
  });

  test('whose error says that the request is wrong is an answer, and one that says 429 a refusal', async () => {
    const wrong = { error: { message: 'max_tokens is too large', code: 400 } };
    assert.deepEqual(answered((await from(chunks([wrong]))).outcome), { status: 400, body: wrong });
    assert.equal((await from(chunks([{ error: { message: 'busy', code: 429 } }]))).outcome.later?.begun, false);
  });

  test('that turns out to be plain JSON is the answer', async () => {
    const { task, outcome } = await from('{"plain":true}', '/v1/chat/completions', 'application/json');
    assert.deepEqual(answered(outcome), { status: 200, body: { plain: true } });
    assert.deepEqual(task.events, []);
  });

  test('of several choices, of a legacy completion, and of servers that repeat themselves is put together right', async () => {
    const tool = (index: number, more: object) => choice({ role: 'assistant', tool_calls: [{ index, ...more }] });
    const repeated = chunks([
      tool(0, { id: 'a', type: 'function', function: { name: 'f', arguments: '{' } }),
      tool(1, { id: 'b', type: 'function', function: { name: 'g', arguments: '[' } }),
      tool(0, { id: 'a', type: 'function', function: { name: 'f', arguments: '}' } }),
      tool(1, { id: 'b', type: 'function', function: { name: 'g', arguments: ']' } }),
      choice({ role: 'assistant', reasoning_content: 'Hm', content: null }),
      choice({ role: 'assistant', reasoning_content: 'm', content: 'A' }, 'stop'),
    ]);
    // biome-ignore lint/suspicious/noExplicitAny: what a model server answers
    const { message } = (answered((await from(repeated)).outcome).body as any).choices[0];
    const call = (id: string, name: string, text: string) => ({
      id,
      type: 'function',
      function: { name, arguments: text },
    });
    assert.deepEqual(message, {
      role: 'assistant',
      content: 'A',
      tool_calls: [call('a', 'f', '{}'), call('b', 'g', '[]')],
      reasoning_content: 'Hmm',
    });

    const part = (index: number, text: string, tokens: string[], finish_reason: string | null = null) => ({
      id: 'c2',
      object: 'text_completion',
      choices: [{ index, text, logprobs: { tokens }, finish_reason }],
    });
    const legacy = chunks([
      part(1, 'B', ['B']),
      part(0, 'A', ['A']),
      part(1, 'b', ['b'], 'stop'),
      part(0, 'a', ['a'], 'length'),
    ]);
    assert.deepEqual(answered((await from(legacy, '/v1/completions')).outcome).body, {
      id: 'c2',
      object: 'text_completion',
      choices: [
        { index: 0, text: 'Aa', logprobs: { tokens: ['A', 'a'] }, finish_reason: 'length' },
        { index: 1, text: 'Bb', logprobs: { tokens: ['B', 'b'] }, finish_reason: 'stop' },
      ],
    });
  });

  test('of a response that failed is a failure with what the server says', async () => {
    const response = { id: 'r', status: 'failed', error: { code: 'server_error', message: 'no' } };
    const { outcome } = await from(
      `event: response.failed\ndata: ${JSON.stringify({ type: 'response.failed', response })}\n\n`,
      '/v1/responses',
    );
    assert.deepEqual(answered(outcome), { status: 502, body: response });
  });
});
