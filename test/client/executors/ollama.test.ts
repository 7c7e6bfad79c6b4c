import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type OllamaOptions, ollamaExecutor } from '../../../client/executors/ollama.ts';
import { answered, type Heard, json, listen, recorded, work } from './support.ts';

const until = async (is: () => boolean) => {
  while (!is()) await sleep(5);
};
const line = (value: unknown) => `${JSON.stringify(value)}\n`;
const messages = [{ role: 'user', content: 'hello' }];

/** Shaped like Ollama: it has the models that were pulled, streams unless told not to, and pulls all but `nothing`. */
async function ollama({
  models = ['llama3'],
  onPull,
}: {
  models?: string[];
  onPull?: (res: ServerResponse) => Promise<unknown>;
} = {}) {
  const has = new Set(models);
  const missing = ({ url }: Heard, res: ServerResponse, model: string) => {
    const message = `model '${model}' not found`;
    json(
      res,
      404,
      url.startsWith('/v1/')
        ? { error: { message, type: 'not_found_error', param: null, code: null } }
        : { error: message },
    );
  };
  return listen(async (heard, res) => {
    if (heard.url === '/api/version') return json(res, 200, { version: '0.12.0' });
    const { model, stream } = JSON.parse(heard.body);
    if (heard.url === '/api/pull') {
      res.writeHead(200, { 'Content-Type': 'application/x-ndjson' });
      res.write(line({ status: 'pulling manifest' }));
      await onPull?.(res);
      if (model === 'nothing') return res.end(line({ error: 'pull model manifest: file does not exist' }));
      for (const completed of [0, 50, 100])
        res.write(line({ status: 'pulling 6a0746a1ec1a', digest: 'sha256:6a', total: 100, completed }));
      has.add(model);
      return res.end(line({ status: 'success' }));
    }
    if (!has.has(model)) return missing(heard, res, model);
    const head = { model, created_at: '2026-11-28T12:00:00Z' };
    const end = { ...head, done: true, done_reason: 'stop', eval_count: 2 };
    if (heard.url === '/api/embed') return json(res, 200, { model, embeddings: [[0.5, 1]] });
    if (heard.url === '/v1/chat/completions') return json(res, 200, { object: 'chat.completion' });
    const said = (text: string) =>
      heard.url === '/api/chat' ? { message: { role: 'assistant', content: text } } : { response: text };
    if (stream === false) return json(res, 200, { ...end, ...said('Hi there') });
    res.writeHead(200, { 'Content-Type': 'application/x-ndjson' });
    for (const text of ['Hi', ' there']) res.write(line({ ...head, ...said(text), done: false }));
    res.end(line({ ...end, ...said('') }));
  });
}

const executor = (url: string, more: Partial<OllamaOptions> = {}) =>
  ollamaExecutor({ upstreams: [{ url }], concurrency: 10, ...more });
const sent = ({ requests }: { requests: Heard[] }, url: string) =>
  requests.filter((heard) => heard.url === url).map(({ body }) => JSON.parse(body));

describe('Ollama’s own API', () => {
  test('answers chats, generations and embeddings, without a stream', async () => {
    await using server = await ollama();
    for (const [endpoint, data, part] of [
      [
        '/api/chat',
        { model: 'llama3', messages, stream: true },
        { message: { role: 'assistant', content: 'Hi there' } },
      ],
      ['/api/generate', { model: 'llama3', prompt: 'hello' }, { response: 'Hi there' }],
      ['/api/embed', { model: 'llama3', input: 'x' }, { embeddings: [[0.5, 1]] }],
    ] as const) {
      const { status, body } = answered(await work(executor(server.url), recorded({ endpoint, data })));
      assert.equal(status, 200);
      assert.partialDeepStrictEqual(body, part);
    }
    assert.deepEqual(sent(server, '/api/chat'), [{ model: 'llama3', messages, stream: false }]);
    assert.deepEqual(sent(server, '/api/embed'), [{ model: 'llama3', input: 'x' }]);
  });

  test('streams its lines unchanged, and the completion is the last one with all of the text', async () => {
    await using server = await ollama();
    for (const [endpoint, part] of [
      ['/api/chat', { message: { role: 'assistant', content: 'Hi there' } }],
      ['/api/generate', { response: 'Hi there' }],
    ] as const) {
      const task = recorded({ endpoint, response_mode: 'streaming', data: { model: 'llama3' } });
      const { status, body } = answered(await work(executor(server.url), task));
      assert.equal(status, 200);
      assert.deepEqual(body, {
        model: 'llama3',
        created_at: '2026-11-28T12:00:00Z',
        done: true,
        done_reason: 'stop',
        eval_count: 2,
        ...part,
      });
      assert.deepEqual(
        task.events.map(([name]) => name),
        ['chunk', 'chunk', 'chunk'],
      );
      assert.equal(JSON.parse(task.events[2]?.[1] as string).done, true);
    }
  });

  test('that reports an error in its stream, or ends before it is done, has failed', async () => {
    for (const [text, reason] of [
      [
        line({ error: 'llama runner process has terminated' }),
        'the model server answered in the stream: llama runner process has terminated',
      ],
      ['', 'the stream ended before its end'],
    ] as const) {
      await using server = await listen((_, res) =>
        res.writeHead(200, { 'Content-Type': 'application/x-ndjson' }).end(text),
      );
      const task = recorded({ endpoint: '/api/chat', response_mode: 'streaming' });
      assert.equal((await work(executor(server.url), task)).later?.reason, reason);
    }
    await using server = await listen((_, res) =>
      res
        .writeHead(200, { 'Content-Type': 'application/x-ndjson' })
        .end(line({ message: { content: 'Hi' }, done: false })),
    );
    const task = recorded({ endpoint: '/api/chat', response_mode: 'streaming' });
    assert.equal(answered(await work(executor(server.url), task)).status, 502);
  });

  test('keeps the model loaded as the executor says, where the task does not', async () => {
    await using server = await ollama();
    const one = executor(server.url, { keepAlive: '10m' });
    await work(one, recorded({ endpoint: '/api/chat', data: { model: 'llama3' } }));
    await work(one, recorded({ endpoint: '/api/chat', data: { model: 'llama3', keep_alive: 0 } }));
    assert.deepEqual(
      sent(server, '/api/chat').map(({ keep_alive }) => keep_alive),
      ['10m', 0],
    );
  });

  test('is found under a prefix too, asked for its version, and called by the name of the option', async () => {
    await using server = await listen((_, res) => json(res, 200, {}));
    const one = executor(`${server.url}/ollama/`, { model: 'llama3:8b' });
    await one.check?.();
    await work(one, recorded({ endpoint: '/api/chat' }));
    await work(one);
    assert.deepEqual(
      server.requests.map(({ url }) => url),
      ['/ollama/api/version', '/ollama/api/chat', '/ollama/v1/chat/completions'],
    );
    for (const { body } of server.requests.slice(1)) assert.equal(JSON.parse(body).model, 'llama3:8b');
  });

  test('has no other endpoints for tasks', async () => {
    await using server = await ollama();
    for (const endpoint of ['/api/delete', '/api/pull', '/v1/../api/delete']) {
      assert.equal(answered(await work(executor(server.url), recorded({ endpoint }))).status, 404);
    }
    assert.equal(server.requests.length, 0);
  });
});

test('tasks for /v1 go to its OpenAI-compatible routes', async () => {
  await using server = await ollama();
  assert.deepEqual(answered(await work(executor(server.url))).body, { object: 'chat.completion' });
});

describe('a model that is missing', () => {
  test('is pulled once for all who wait for it, who see how it goes, and then get their answers', async () => {
    let go: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      go = resolve;
    });
    await using server = await ollama({ models: [], onPull: () => held });
    const lines: string[] = [];
    const one = executor(server.url, { log: (text) => lines.push(text) });
    const task = recorded({ endpoint: '/api/chat', response_mode: 'streaming', data: { model: 'llama3' } });
    const openAi = recorded({ response_mode: 'streaming' });
    const ends = [work(one, task), work(one, recorded({ endpoint: '/api/chat' })), work(one, openAi)];
    await until(() => sent(server, '/api/chat').length === 2 && sent(server, '/v1/chat/completions').length === 1);
    await until(() => task.events.length > 0);
    assert.equal(one.remainingCapacity?.('chat'), 7, 'who waits keeps its place');
    go();
    for (const end of ends) assert.equal(answered(await end).status, 200);
    assert.deepEqual(sent(server, '/api/pull'), [{ model: 'llama3', stream: true }]);
    assert.deepEqual(task.events.slice(0, 2), [
      ['pull', '{"status":"pulling manifest"}'],
      ['pull', '{"status":"pulling 6a0746a1ec1a","completed":0,"total":100}'],
    ]);
    assert.deepEqual(
      task.events.slice(-3).map(([name]) => name),
      ['chunk', 'chunk', 'chunk'],
    );
    assert.ok(
      openAi.events.every(([name]) => name === 'chunk'),
      'chunks of OpenAI have no place for it',
    );
    assert.deepEqual(lines, [
      'llama3: pulling manifest',
      'llama3: pulling 6a0746a1ec1a, 0 %',
      'llama3: success',
      'llama3 is pulled',
    ]);
    assert.equal(one.remainingCapacity?.('chat'), 10);
  });

  test('and that Ollama can’t pull either is a 404 with Ollama’s own words', async () => {
    await using server = await ollama();
    const data = { model: 'nothing' };
    const native = answered(await work(executor(server.url), recorded({ endpoint: '/api/chat', data })));
    assert.deepEqual(native, { status: 404, body: { error: 'pull model manifest: file does not exist' } });
    const openAi = answered(await work(executor(server.url), recorded({ data })));
    assert.equal(openAi.status, 404);
    assert.equal(
      (openAi.body as { error: { message: string } }).error.message,
      'pull model manifest: file does not exist',
    );
  });

  test('is a 404 where pull is false', async () => {
    await using server = await ollama({ models: [] });
    const outcome = await work(executor(server.url, { pull: false }), recorded({ endpoint: '/api/chat' }));
    assert.deepEqual(answered(outcome), { status: 404, body: { error: "model 'llama3' not found" } });
    assert.deepEqual(sent(server, '/api/pull'), []);
  });

  test('makes the task wait for another time where the pull breaks off', async () => {
    await using server = await ollama({ models: [], onPull: async (res) => res.destroy() });
    const { later } = await work(executor(server.url), recorded({ endpoint: '/api/chat' }));
    assert.match(later?.reason as string, /broke/);
  });

  test('lets a task go that is taken away, and the pull goes on', async () => {
    let go: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      go = resolve;
    });
    await using server = await ollama({ models: [], onPull: () => held });
    const one = executor(server.url);
    const task = recorded({ endpoint: '/api/chat', response_mode: 'streaming' });
    const end = work(one, task);
    await until(() => task.events.length > 0);
    task.cancel();
    assert.deepEqual(await end, {});
    assert.equal(one.remainingCapacity?.('chat'), 10);
    const other = work(one, recorded({ endpoint: '/api/chat' }));
    await until(() => sent(server, '/api/chat').length === 2);
    go();
    assert.equal(answered(await other).status, 200);
    assert.equal(sent(server, '/api/pull').length, 1);
  });
});
