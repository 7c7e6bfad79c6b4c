import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, type TestContext, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import OpenAI, { toFile } from 'openai';
import OpenAI6 from 'openai-6';
import pg from 'pg';
import { createDatabase } from '../support/database.ts';
import { LONG } from '../support/long.ts';
import { type Json, type Server, startServer } from '../support/server.ts';
import { ENDPOINT, talk, until } from './clients.ts';

/** The moments at which servers are killed follow from it. */
const SEED = Number(process.env.BATCH_SEED ?? 20261124);
const ENDED = ['completed', 'failed', 'expired', 'cancelled'];

const jsonl = (queue: string, count: number, prefix = 'c'): string =>
  Array.from({ length: count }, (_, n) =>
    JSON.stringify({
      custom_id: `${prefix}${n}`,
      method: 'POST',
      url: ENDPOINT,
      body: { model: queue, messages: [{ role: 'user', content: `question ${n}` }] },
    }),
  ).join('\n');

const clientOf = (server: Server, Client = OpenAI) =>
  new Client({ baseURL: `${server.url}/v1`, apiKey: server.adminKey, maxRetries: 0 });

const upload = async (server: Server, text: string): Promise<string> =>
  (await clientOf(server).files.create({ file: await toFile(Buffer.from(text), 'in.jsonl'), purpose: 'batch' })).id;

const create = (server: Server, fileId: string, more: object = {}) =>
  clientOf(server).batches.create({
    input_file_id: fileId,
    endpoint: ENDPOINT,
    completion_window: '24h',
    ...more,
  } as OpenAI.BatchCreateParams);

const ended = (server: Server, id: string) =>
  until(
    'the batch has ended',
    async () => {
      const batch = await clientOf(server).batches.retrieve(id);
      return ENDED.includes(batch.status) && batch;
    },
    45_000,
  );

const linesOf = async (server: Server, fileId: string | null | undefined): Promise<Json[]> =>
  fileId == null
    ? []
    : (await (await clientOf(server).files.content(fileId)).text())
        .split('\n')
        .filter((one) => one !== '')
        .map((one) => JSON.parse(one));

/** Starts a worker as a process of its own, which goes on for as long as the test. */
function startWorker(t: TestContext, servers: Server[], lane: string): void {
  const script = join(import.meta.dirname, 'batch-worker.ts');
  const worker = spawn(process.execPath, [script, servers.map((server) => server.url).join(','), lane], {
    env: { PATH: process.env.PATH, WORKER_KEY: servers[0]?.adminKey },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  t.after(async () => {
    worker.kill('SIGKILL');
    await once(worker, 'exit');
  });
}

/** Every line is in one of the two files, once, with its own answer; and the counts say so. */
async function assertEachOnce(server: Server, batch: OpenAI.Batch, count: number): Promise<void> {
  assert.equal(batch.status, 'completed', JSON.stringify(batch));
  const output = await linesOf(server, batch.output_file_id);
  const errors = await linesOf(server, batch.error_file_id);
  const failed = Math.floor(count / 4);
  assert.deepEqual([output.length, errors.length], [count - failed, failed]);
  assert.deepEqual(batch.request_counts, { total: count, completed: count - failed, failed });
  const seen = new Set([...output, ...errors].map((one) => one.custom_id));
  assert.equal(seen.size, count, 'a line is there twice');
  for (let n = 0; n < count; n++) assert.ok(seen.has(`c${n}`), `c${n} is missing`);
  for (const one of [...output, ...errors])
    assert.equal(one.response.body.echo, one.custom_id, 'an answer of another line');
  assert.equal(batch.usage?.total_tokens, 2 * (count - failed));
}

describe('the openai package', () => {
  let server: Server;
  let folder: string;
  before(async () => {
    [server, folder] = await Promise.all([startServer(), mkdtemp(join(tmpdir(), 'tasklane-batches-'))]);
  });
  after(async () => {
    await server?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  for (const [version, Client] of [
    ['7', OpenAI],
    ['6', OpenAI6 as unknown as typeof OpenAI],
  ] as const) {
    const beside = version === '7' ? {} : LONG;
    test(`${version} runs a batch from the upload to its results`, beside, async (t) => {
      const queue = `sdk${version}`;
      await talk(server).register(queue);
      startWorker(t, [server], `${queue}:1`);
      const client = clientOf(server, Client);
      const path = join(folder, `${queue}.jsonl`);
      await writeFile(path, jsonl(queue, 20));

      const uploads = [createReadStream(path), await toFile(Buffer.from(jsonl(queue, 20)), 'jobs.jsonl')];
      for (const [n, sent] of uploads.entries()) {
        const file = await client.files.create({ file: sent, purpose: 'batch' });
        assert.equal(file.filename, n === 0 ? `${queue}.jsonl` : 'jobs.jsonl');
        assert.equal((await client.files.waitForProcessing(file.id)).status, 'processed');
        let batch = await client.batches.create({
          input_file_id: file.id,
          endpoint: ENDPOINT,
          completion_window: '24h',
          metadata: { n: String(n) },
        });
        assert.equal(batch.status, 'validating');
        while (!ENDED.includes(batch.status)) {
          await pause(20);
          batch = await client.batches.retrieve(batch.id);
        }
        assert.deepEqual(batch.metadata, { n: String(n) });
        await assertEachOnce(server, batch, 20);
      }
    });

    test(`${version} pages through lists, cancels, and throws what each refusal is`, beside, async () => {
      const queue = `lists${version}`;
      await talk(server).register(queue);
      const key = await server.key('client', queue);
      const client = new Client({ baseURL: `${server.url}/v1`, apiKey: key });
      const file = await client.files.create({
        file: await toFile(Buffer.from(jsonl(queue, 3)), 'a.jsonl'),
        purpose: 'batch',
      });
      const body = { input_file_id: file.id, endpoint: ENDPOINT, completion_window: '24h' } as const;
      const made: string[] = [];
      for (let n = 0; n < 5; n++) made.unshift((await client.batches.create(body)).id);
      const seen: string[] = [];
      for await (const batch of client.batches.list({ limit: 2 })) seen.push(batch.id);
      assert.deepEqual(seen, made);

      const [first = ''] = made;
      assert.equal((await client.batches.cancel(first)).status, 'cancelling');
      const cancelled = await until('it is cancelled', async () => {
        const batch = await client.batches.retrieve(first);
        return batch.status === 'cancelled' && batch;
      });
      assert.ok((cancelled.cancelled_at ?? 0) >= (cancelled.cancelling_at ?? Number.POSITIVE_INFINITY));
      assert.equal((await client.batches.cancel(first)).status, 'cancelled');

      const bad = await client.files.create({
        file: await toFile(Buffer.from('{"custom_id":"a"}'), 'a.jsonl'),
        purpose: 'batch',
      });
      const { id } = await client.batches.create({ ...body, input_file_id: bad.id });
      const failed = await until('it has failed', async () => {
        const batch = await client.batches.retrieve(id);
        return batch.status === 'failed' && batch;
      });
      assert.deepEqual(
        failed.errors?.data?.map((one) => [one.line, one.code, one.param]),
        ['method', 'url', 'body'].map((param) => [1, 'missing_required_parameter', param]),
      );
      await assert.rejects(client.batches.cancel(id), (error) => {
        assert.ok(error instanceof Client.ConflictError);
        assert.equal(error.message, "409 Cannot cancel a batch with status 'failed'.");
        return true;
      });
      await assert.rejects(client.batches.retrieve('BATCH-0-1-250101000000-0000-000001'), Client.NotFoundError);
      await assert.rejects(client.batches.create({ ...body, endpoint: '/v1/foo' as never }), (error) => {
        assert.ok(error instanceof Client.BadRequestError);
        assert.deepEqual([error.param, error.code], ['endpoint', 'invalid_value']);
        assert.match(error.requestID ?? '', /^req_/);
        return true;
      });
      await assert.rejects(
        new Client({ baseURL: `${server.url}/v1`, apiKey: 'sk-none' }).batches.list(),
        Client.AuthenticationError,
      );
    });
  }

  test('waits for live work in order only: a batch hands out what it has between', async () => {
    await talk(server).register('live');
    const { id } = await create(server, await upload(server, jsonl('live', 300)));
    const take = async (size: number): Promise<Json[]> => {
      const body = { queues: ['live:0', 'live:1'], size, strategy: 'active_passive', wait: 10 };
      const { json } = await server.request('POST', '/v1/queue/take', body);
      return [...(json['live:0'] ?? []), ...(json['live:1'] ?? [])];
    };
    const lines = await take(5);
    assert.ok(lines.length > 0 && lines.every((task) => task.batch_id === id));
    const put = await talk(server).puts('live', 3);
    const next = await take(5);
    assert.deepEqual(
      next.slice(0, 3).map((task) => task.task_id),
      put,
    );
    assert.ok(next.slice(3).length === 2 && next.slice(3).every((task) => task.batch_id === id));
    await clientOf(server).batches.cancel(id);
  });

  test('does not let a big batch keep a small one that came later from its share', async () => {
    await talk(server).register('shared');
    const big = await create(server, await upload(server, jsonl('shared', 3000)));
    // Its first lines are handed out: a batch is in progress before they wait.
    const one = { queues: ['shared:1'], size: 1, wait: 10 };
    assert.equal((await server.request('POST', '/v1/queue/take', one)).json['shared:1'][0].batch_id, big.id);
    const small = await create(server, await upload(server, jsonl('shared', 200)));
    const order: string[] = [];
    for (let open = true; open; ) {
      const { json } = await server.request('POST', '/v1/queue/take', { queues: ['shared:1'], size: 50, wait: 10 });
      const tasks: Json[] = json['shared:1'] ?? [];
      order.push(...tasks.map((task) => task.batch_id));
      const results = tasks.map((task) => ({ task_id: task.task_id, status_code: 200, body: {} }));
      await server.request('POST', '/v1/queue/complete', { results });
      open = !ENDED.includes((await clientOf(server).batches.retrieve(small.id)).status);
    }
    const before = order.slice(0, order.lastIndexOf(small.id)).filter((id) => id === big.id).length;
    assert.ok(before < 1500, `${before} lines of the big one went before the small one was through`);
    assert.ok(before > 0, 'and the big one went on');
    await clientOf(server).batches.cancel(big.id);
  });
});

describe('a batch', () => {
  let database: Awaited<ReturnType<typeof createDatabase>>;
  let psql: pg.Client;
  before(async () => {
    database = await createDatabase();
    psql = new pg.Client({ connectionString: database.url });
    await psql.connect();
  });
  after(async () => {
    await psql?.end();
    await database?.drop();
  });

  const random = seeded(SEED);
  const row = async (id: string): Promise<Json> =>
    (
      await psql.query(
        `select b.status, b.expanded, b.read_to::int as read_to, b.written_to > 0 as written, p.completed + p.failed as answered
         from tasklane.batch b join tasklane.batch_progress p using (batch_id) where b.batch_id = tasklane.parse_batch_id($1)`,
        [id],
      )
    ).rows[0];
  const when = (id: string, what: string, is: (batch: Json) => boolean) =>
    until(what, async () => is(await row(id)), 45_000);

  test('has every line once although its server is killed with -9 seven times, from the upload to the last file', async (t) => {
    const count = 3000;
    let server = await startServer({ url: database.url });
    t.after(() => server.kill());
    const kill = async () => {
      await pause(random() * 40);
      await server.kill('SIGKILL');
      server = await startServer({ url: database.url, env: { PORT: new URL(server.url).port } });
    };
    await talk(server).register('killed');
    startWorker(t, [server], 'killed:1');

    const fileId = await upload(server, jsonl('killed', count));
    await kill();
    const { id } = await create(server, fileId);
    await kill();
    await when(id, 'it is expanded in part', (batch) => batch.read_to > 0 || batch.expanded);
    await kill();
    const parts = Array.from({ length: 2 }, random).sort((a, b) => a - b);
    for (const part of parts) {
      await when(id, 'so many lines are answered', (batch) => batch.answered >= part * count * 0.98);
      await kill();
    }
    await when(id, 'its files are written', (batch) => ['finalizing', 'completed'].includes(batch.status));
    await kill();
    await when(id, 'its files are written in part', (batch) => batch.written);
    await kill();
    await assertEachOnce(server, (await ended(server, id)) as OpenAI.Batch, count);
  });

  test('is run by two servers, and by the one that is left when the other is killed', async (t) => {
    const count = 2000;
    const [a, b] = await Promise.all([startServer({ url: database.url }), startServer({ url: database.url })]);
    t.after(() => Promise.all([a.kill(), b.kill()]));
    await talk(a).register('two');
    startWorker(t, [a, b], 'two:1');
    startWorker(t, [b, a], 'two:1');
    const { id } = await create(a, await upload(b, jsonl('two', count)));
    const part = 0.2 + random() * 0.5;
    await when(id, 'so many lines are answered', (batch) => batch.answered >= part * count);
    const [killed, left] = random() < 0.5 ? [a, b] : [b, a];
    await killed.kill('SIGKILL');
    await assertEachOnce(left, (await ended(left, id)) as OpenAI.Batch, count);
  });
});

/** Numbers from 0 to 1, the same for a seed. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
