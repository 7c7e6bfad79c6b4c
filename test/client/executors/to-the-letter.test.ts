import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import { pipeline } from 'node:stream';
import { describe, test } from 'node:test';
import zlib from 'node:zlib';
import { commandExecutor } from '../../../client/executors/command.ts';
import { httpExecutor } from '../../../client/executors/http.ts';
import { ollamaExecutor } from '../../../client/executors/ollama.ts';
import { openAiExecutor } from '../../../client/executors/openai.ts';
import type { Task } from '../../../client/types.ts';
import { answered, type Heard, json, listen, recorded, work } from './support.ts';

const SCHEMA = '{"type":"object","properties":{"why":{},"10":{},"2":{}}}';
const REQUEST = ` { "model": "m", "seed":9223372036854775807, "top_p": 1.0,\n"a":1,"a":2, "schema":${SCHEMA} }`;
const of = (dataText: string, fields: Partial<Task> = {}, maxAnswerBytes?: number) =>
  recorded(
    { ...fields, data: JSON.parse(dataText) },
    { dataText, ...(maxAnswerBytes !== undefined && { maxAnswerBytes }) },
  );
const STREAMING = { response_mode: 'streaming' } as const;
const chunk = (content: string, finish: string | null = null) =>
  `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content }, finish_reason: finish }] })}\n\n`;
const STREAM = `${chunk('狐 first ')}${chunk('second', 'stop')}data: [DONE]\n\n`;
const contentsOf = ({ events }: { events: [string, string][] }) =>
  events.map(([, data]) => JSON.parse(data).choices[0].delta.content);

describe('a request', () => {
  const sent = async (
    make: typeof openAiExecutor | typeof ollamaExecutor | typeof httpExecutor,
    task: ReturnType<typeof of>,
    more = {},
  ) => {
    await using server = await listen((_, res) => json(res, 200, {}));
    await work(make({ upstreams: [{ url: server.url }], ...more }), task);
    return server.requests[0]?.body;
  };

  test('reaches the model server as its client wrote it', async () => {
    for (const make of [openAiExecutor, ollamaExecutor, httpExecutor])
      assert.equal(await sent(make, of(REQUEST)), REQUEST);
    const command = commandExecutor({ enabled: true, command: ['wc', '-c'] });
    const { body } = answered(await work(command, of(REQUEST)));
    assert.equal(body, Buffer.byteLength(REQUEST));
  });

  test('has its stream, and the name of an option, changed in the text', async () => {
    const text = '{"stream": false, "model": "m", "n": 1.0, "stream_options":{"include_usage":true}}';
    assert.equal(await sent(openAiExecutor, of(text), { model: 'x"y' }), '{"model": "x\\"y", "n": 1.0}');
    assert.equal(await sent(openAiExecutor, of(text, STREAMING)), text.replace('false', 'true'));
    assert.equal(await sent(openAiExecutor, of('{"n": 1.0}', STREAMING)), '{"n": 1.0,"stream":true}');
    const native = { endpoint: '/api/chat' };
    assert.equal(
      await sent(ollamaExecutor, of('{"n": 1.0}', native), { keepAlive: '5m' }),
      '{"n": 1.0,"keep_alive":"5m","stream":false}',
    );
    assert.equal(
      await sent(ollamaExecutor, of('{"keep_alive":0, "stream":true}', { ...native, ...STREAMING }), {
        keepAlive: '5m',
      }),
      '{"keep_alive":0, "stream":true}',
    );
  });

  test('whose data is no object goes as it is', async () => {
    for (const make of [openAiExecutor, ollamaExecutor]) assert.equal(await sent(make, of('[1.0]')), '[1.0]');
  });

  test('that limits its tokens by the newer name has the older one too for Ollama, which drops the newer', async () => {
    const limit = '{"max_completion_tokens": 5, "model":"m"}';
    assert.equal(await sent(ollamaExecutor, of(limit)), '{"max_completion_tokens": 5, "model":"m","max_tokens":5}');
    for (const text of [
      '{"max_completion_tokens":5,"max_tokens":7}',
      '{"max_completion_tokens":null}',
      '{"max_tokens":7}',
    ])
      assert.equal(await sent(ollamaExecutor, of(text)), text);
    assert.equal(await sent(openAiExecutor, of(limit)), limit);
  });

  test('carries the headers of its task, but for those that are the worker’s own', async () => {
    await using server = await listen((_, res) => json(res, 200, {}));
    const headers = {
      traceparent: '00-1-2-01',
      'x-tenant': 'a',
      'content-type': 'text/plain',
      authorization: 'Bearer theirs',
    };
    await work(openAiExecutor({ upstreams: [{ url: server.url, apiKey: 'ours' }] }), recorded({ headers }));
    const [{ headers: heard }] = server.requests as [Heard];
    assert.partialDeepStrictEqual(heard, {
      traceparent: '00-1-2-01',
      'x-tenant': 'a',
      'content-type': 'application/json',
      authorization: 'Bearer ours',
      'accept-encoding': 'identity',
    });
  });
});

describe('an answer', () => {
  type Reply = (res: ServerResponse) => unknown;
  const from = async (
    reply: Reply,
    task = of(REQUEST),
    make: typeof openAiExecutor | typeof httpExecutor = openAiExecutor,
  ) => {
    await using server = await listen((_, res) => reply(res));
    const outcome = await work(make({ upstreams: [{ url: server.url }] }), task);
    return { outcome, calls: server.requests.length };
  };
  const sending =
    (body: string | Buffer, headers: Record<string, string> = {}): Reply =>
    (res) =>
      void res.writeHead(200, { 'Content-Type': 'application/json', ...headers }).end(body);
  const events = { 'Content-Type': 'text/event-stream' };

  test('that is compressed although nothing asked for it is undone', async () => {
    const body = '{"choices":[], "n": 1.0}';
    const codings: [string, (text: string) => Buffer][] = [
      ['gzip', zlib.gzipSync],
      ['deflate', zlib.deflateSync],
      ['BR', zlib.brotliCompressSync],
      ['zstd', zlib.zstdCompressSync],
      ['gzip, br', (text) => zlib.brotliCompressSync(zlib.gzipSync(text))],
    ];
    for (const [coding, compress] of codings) {
      const { outcome } = await from(sending(compress(body), { 'Content-Encoding': coding }));
      assert.deepEqual(answered(outcome), { status: 200, body: { choices: [], n: 1 } }, coding);
      const task = of(REQUEST, STREAMING);
      await from(sending(compress(STREAM), { ...events, 'Content-Encoding': coding }), task);
      assert.deepEqual(contentsOf(task), ['狐 first ', 'second']);
    }
  });

  test('in a coding that nobody knows, or whose coding is broken, is a failure in words', async () => {
    const unknown = await from(sending('x', { 'Content-Encoding': 'compress' }));
    assert.match(unknown.outcome.later?.reason as string, /a coding that we did not ask for and do not know: compress/);
    const broken = await from(sending('no gzip', { 'Content-Encoding': 'gzip' }));
    assert.match(broken.outcome.later?.reason as string, /incorrect header check/);
  });

  test('loses its byte order mark', async () => {
    const { outcome } = await from(sending('\ufeff{"n":1}'));
    assert.deepEqual(answered(outcome), { status: 200, body: { n: 1 } });
    const task = of(REQUEST, STREAMING);
    await from(sending(`\ufeff${STREAM}`, events), task);
    assert.deepEqual(contentsOf(task), ['狐 first ', 'second']);
  });

  test('that is a stream is one whatever its content type says, and whole if it is not', async () => {
    for (const type of ['application/json', 'text/plain', 'TEXT/EVENT-STREAM']) {
      for (const before of ['', '\n', ': ping\n\n', 'event: message\n']) {
        const task = of(REQUEST, STREAMING);
        const { outcome } = await from(sending(before + STREAM, { 'Content-Type': type }), task);
        assert.equal(answered(outcome).status, 200);
        assert.deepEqual(contentsOf(task), ['狐 first ', 'second']);
      }
    }
    const { outcome } = await from(sending(' {"choices":[]}', events), of(REQUEST, STREAMING));
    assert.deepEqual(answered(outcome), { status: 200, body: { choices: [] } });
  });

  test('that comes byte by byte is the same', async () => {
    const task = of(REQUEST, STREAMING);
    const { outcome } = await from(async (res) => {
      res.writeHead(200, { 'Content-Type': 'text/plain' });
      for (const byte of Buffer.from(`\ufeff${STREAM}`)) {
        res.write(Buffer.of(byte));
        await new Promise(setImmediate);
      }
      res.end();
    }, task);
    assert.equal(answered(outcome).status, 200);
    assert.deepEqual(contentsOf(task), ['狐 first ', 'second']);
  });

  test('that is binary, empty or no JSON is a failure whose words can be stored', async () => {
    const cases: [string | Buffer, string, RegExp][] = [
      [
        Buffer.from([0x89, 0x50, 0x4e, 0x47, 0, 0, 0x0d]),
        'image/png',
        /is not JSON but image\/png: \ufffdPNG\ufffd\ufffd$/,
      ],
      ['', 'application/json', /the model server's answer is empty/],
      ['<h1>Hello</h1>', 'text/html', /is not JSON but text\/html: <h1>Hello/],
      ['{"a":', 'application/json', /is not JSON: \{"a":/],
    ];
    for (const [body, type, words] of cases) {
      for (const fields of [{}, STREAMING]) {
        const { outcome } = await from(sending(body, { 'Content-Type': type }), of(REQUEST, fields));
        assert.match(outcome.later?.reason as string, words);
      }
    }
    const { outcome } = await from((res) => json(res, 500, { error: { message: 'token \0 \ud83d' } }));
    assert.equal(outcome.later?.reason, 'the model server answered 500: token \ufffd \ufffd');
  });

  test('larger than the server takes is a final one, and is read no further', async () => {
    const letters = function* () {
      for (;;) yield 'x'.repeat(65_536);
    };
    const endless: Reply = (res) => {
      res.writeHead(200, { 'Content-Type': 'application/json' });
      pipeline(letters, res, () => undefined);
    };
    const bomb = sending(zlib.gzipSync(Buffer.alloc(50_000_000, ' ')), { 'Content-Encoding': 'gzip' });
    const line = sending(`data: "${'x'.repeat(200_000)}`, events);
    const stream = sending(chunk('x'.repeat(1000)).repeat(200), events);
    for (const [reply, fields] of [
      [endless, {}],
      [bomb, {}],
      [endless, STREAMING],
      [line, STREAMING],
      [stream, STREAMING],
    ] as const) {
      const { outcome, calls } = await from(reply, of(REQUEST, fields, 100_000));
      const message = "the model server's answer is larger than 100000 bytes";
      const body = { error: { message, type: 'upstream_error', param: null, code: 'answer_too_large' } };
      assert.deepEqual(outcome.answer, { status_code: 502, headers: { 'x-should-retry': 'false' }, body });
      assert.equal(calls, 1);
    }
  });

  test('of a stream is as large as its text, however much is written around that', async () => {
    const many = chunk('x').repeat(2000);
    const { outcome } = await from(sending(many + STREAM, events), of(REQUEST, STREAMING, 10_000));
    assert.equal(answered(outcome).status, 200);
  });

  test('brings the headers that its client is to have, a stream with its first chunk', async () => {
    const limits = Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`x-ratelimit-n${n}`, 'v']));
    const told = { 'openai-processing-ms': '12', 'x-request-id': 'req-7', 'retry-after': '3' };
    const others = { server: 'nginx', 'set-cookie': 'a=b', 'x-other': 'y' };
    const { outcome } = await from(sending('{}', { ...told, ...others, ...limits }));
    const { headers = {} } = outcome.answer ?? {};
    assert.partialDeepStrictEqual(headers, told);
    assert.equal(Object.keys(headers).length, 16);
    assert.ok(!Object.keys(headers).some((name) => name in others));

    const task = of(REQUEST, STREAMING);
    const stream = await from(sending(STREAM, { ...events, ...told }), task);
    assert.deepEqual(task.events[0], [
      'response-headers',
      JSON.stringify({ 'openai-processing-ms': '12', 'x-request-id': 'req-7', 'retry-after': '3' }),
    ]);
    assert.deepEqual(task.events.length, 3);
    assert.deepEqual(stream.outcome.answer?.headers, told);
  });
});
