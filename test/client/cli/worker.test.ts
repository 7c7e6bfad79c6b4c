import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server as HttpServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { json as readJson, text } from 'node:stream/consumers';
import { after, afterEach, before, describe, it } from 'node:test';
import { createClient } from '../../../client/client.ts';
import { type Json, type Server, startServer, until } from '../../support/server.ts';
import { cli } from './tasklane.ts';

const HANGS = { endpoint: '/api/chat', data: { model: 'm', messages: [{ role: 'user', content: 'hang' }] } };

type Asked = { path: string; key: string | undefined; body: Json };

describe('tasklane worker', () => {
  let folder: string;
  let server: Server;
  let upstreamUrl: string;
  let client: ReturnType<typeof createClient>;
  let tasklane: ReturnType<typeof cli>;
  const asked: Asked[] = [];
  const listeners: HttpServer[] = [];

  const listen = async (handle: RequestListener) => {
    const listener = createServer(handle).listen(0, '127.0.0.1');
    listeners.push(listener);
    await once(listener, 'listening');
    return { url: `http://127.0.0.1:${(listener.address() as AddressInfo).port}` };
  };

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tasklane-cli-worker-'));
    server = await startServer();
    client = createClient({ baseUrl: server.url, apiKey: server.adminKey });
    tasklane = cli(folder, { TASKLANE_URL: server.url, TASKLANE_API_KEY: server.adminKey });
    // A model server in Ollama's shape: lacks one model, and lets whoever says `hang` wait.
    ({ url: upstreamUrl } = await listen(async (req, res) => {
      const sent = await text(req);
      const body = sent === '' ? undefined : JSON.parse(sent);
      asked.push({ path: req.url ?? '', key: req.headers.authorization, body });
      if (sent.includes('hang')) return;
      const known = body?.model !== 'missing';
      res.writeHead(known ? 200 : 404, { 'Content-Type': 'application/json' });
      res.end(
        JSON.stringify(known ? { message: { content: 'hello' }, done: true } : { error: "model 'missing' not found" }),
      );
    }));
  });
  afterEach(() => tasklane.killAll());
  after(async () => {
    for (const listener of listeners) {
      listener.closeAllConnections();
      listener.close();
    }
    await server.stop();
    await rm(folder, { recursive: true });
  });

  it('does what tasklane.yaml says, and what flags say before that', async () => {
    const takes: Json[] = [];
    const proxy = await listen(async (req, res) => {
      // A take whose worker is gone must not get anything.
      const gone = new AbortController();
      res.on('close', () => gone.abort());
      const body = req.method === 'POST' ? await readJson(req) : undefined;
      if (req.url === '/v1/queue/take') takes.push(body);
      const passed = server.request(req.method ?? '', req.url ?? '', body, { signal: gone.signal });
      const reply = await passed.catch(() => undefined);
      res.writeHead(reply?.status ?? 502, { 'Content-Type': 'application/json' }).end(reply?.text);
    });
    await writeFile(
      join(folder, 'worker.yaml'),
      `\
url: ${proxy.url}
worker:
  queues: [native:0, native:1, native:2]
  executor: ollama
  upstreams:
    - { url: "${upstreamUrl}", api_key: up-key, queues: [native], concurrency: 6 }
  concurrency: 2
  endpoint: /api/chat
  strategy: round_robin
  lease_seconds: 44
  timeout_seconds: 1
  reserve: 2
  prefetch: 3
  name: of-the-file
  model: real
  keep_alive: 7m
`,
    );
    const worker = tasklane.start('worker --config worker.yaml --name gpu-1', { env: { TASKLANE_URL: '' } });
    await worker.shows(/ready/);
    const answer = await client.putAndWait<Json>({
      queue: 'native',
      endpoint: '/api/chat',
      data: { model: 'm', messages: [] },
    });
    assert.equal(answer.body.message.content, 'hello');
    const call = asked.find(({ path }) => path === '/api/chat');
    assert.deepEqual([call?.key, call?.body.model, call?.body.keep_alive], ['Bearer up-key', 'real', '7m']);
    const take = await until(async () => takes.find(({ queues }) => queues.length === 3));
    assert.deepEqual(
      [take.queues, take.strategy, take.lease_seconds, take.endpoint, take.worker.name],
      [['native:0', 'native:1', 'native:2'], 'round_robin', 44, '/api/chat', 'gpu-1'],
    );
    // Six calls at once, of which two places are kept, and three more tasks at hand.
    assert.equal(takes[0].size, 7);
    await client.put({ queue: 'native', level: 1, ...HANGS });
    await until(async () => asked.filter(({ body }) => JSON.stringify(body)?.includes('hang')).length > 1);
    worker.kill('SIGTERM');
    const { code, stdout } = await worker.ended;
    assert.deepEqual(
      [code, stdout],
      [
        0,
        `tasklane worker gpu-1 ready: native:0, native:1, native:2 from ${proxy.url} to ${upstreamUrl}, concurrency 2\n`,
      ],
    );
  });

  it('fetches no model with pull off, takes the key of upstreams from the environment, and waits no longer than it should', async () => {
    const settings = `executor: ollama, pull: false, drain_seconds: 0, queues: [native:0], upstreams: [{ url: "${upstreamUrl}" }]`;
    await writeFile(join(folder, 'no-pull.yaml'), `worker: { ${settings} }`);
    const worker = tasklane.start('worker --config no-pull.yaml', { env: { TASKLANE_UPSTREAM_KEY: 'secret' } });
    await worker.shows(/ready/);
    const missing = { queue: 'native', endpoint: '/api/chat', data: { model: 'missing', messages: [] } };
    assert.equal((await client.putAndWait(missing)).status_code, 404);
    assert.ok(!asked.some(({ path }) => path === '/api/pull'));
    assert.equal(asked.at(-1)?.key, 'Bearer secret');
    const id = await client.put({ queue: 'native', ...HANGS });
    await until(async () => JSON.stringify(asked.at(-1)?.body)?.includes('hang'));
    const told = performance.now();
    worker.kill('SIGINT');
    assert.equal((await worker.ended).code, 0);
    assert.ok(performance.now() - told < 10_000, 'a call may take 600 seconds, and half a minute is the usual wait');
    const { status, attempt } = await client.get(id);
    assert.deepEqual([status, attempt], ['waiting', 0], 'it is given back, and no attempt counts');
  });

  it('runs programs only where it is allowed to', async () => {
    await client.queues.register('count', '/count');
    const line = 'worker --executor command --queues count:0 -- wc -c';
    const refused = await tasklane.run(line);
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /--allow-command/);
    await writeFile(
      join(folder, 'allow.yaml'),
      'worker: { allow_command: true, executor: command, command: [wc, -c], queues: [count:0] }',
    );
    const worker = tasklane.start('worker --config allow.yaml');
    await worker.shows(/ready: count:0 from \S+ to wc -c,/);
    const { body } = await client.putAndWait({ queue: 'count', endpoint: '/count', data: { a: 1 } });
    assert.equal(JSON.stringify(body), '7');
    worker.kill('SIGTERM');
    assert.equal((await worker.ended).code, 0);
  });

  it('says what it needs, and which queue is not registered', async () => {
    const ended = async (flags: string) => {
      const { code, stderr } = await tasklane.run(`worker ${flags}`);
      return `${code} ${stderr}`;
    };
    assert.match(await ended(`--upstream ${upstreamUrl}`), /^2 tasklane: --queues is needed/);
    assert.match(await ended(`--upstream ${upstreamUrl} --queues q`), /^2 tasklane: queues: "q" is not a lane/);
    assert.match(await ended('--executor openai --queues q:0'), /^2 tasklane: --upstream is needed/);
    assert.match(
      await ended(`--upstream ${upstreamUrl} --queues nope:0`),
      /^4 tasklane: unknown queue "nope"\n.*tasklane queues register nope --endpoint/,
    );
  });
});
