import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import OpenAI from 'openai';
import pg from 'pg';
import { createDatabase } from '../support/database.ts';
import { type Server, startServer } from '../support/server.ts';
import { progress, talk, until } from './clients.ts';

const TESTS = 4;

let database: Awaited<ReturnType<typeof createDatabase>>;
let psql: pg.Client;
let first: Server;
let openai: OpenAI;
before(async () => {
  database = await createDatabase();
  psql = new pg.Client({ connectionString: database.url });
  await psql.connect();
  first = await startServer({ url: database.url });
  openai = new OpenAI({ apiKey: first.adminKey, baseURL: `${first.url}/v1`, maxRetries: 10 });
});
after(async () => {
  await psql?.end();
  await (await second)?.stop();
  await first?.kill();
  await database?.drop();
});

let ready = 0;
let second: Promise<Server> | undefined;
const { promise: allReady, resolve: go } = Promise.withResolvers<void>();
/** Kills the server when every test has come to this, and starts another at its address. */
async function restart(): Promise<Server> {
  if (++ready === TESTS) go();
  await allReady;
  second ??= first
    .kill('SIGKILL')
    .then(() => startServer({ url: database.url, env: { PORT: new URL(first.url).port } }));
  return second;
}

/** What a program written for OpenAI asks of a model. */
async function program(model: string) {
  await talk(first).register(model);
  const request = (content: string) => ({ model, messages: [{ role: 'user' as const, content }] });
  const keyed = (key?: string) => (key === undefined ? {} : { headers: { 'Idempotency-Key': `${model} ${key}` } });
  return {
    ask: (content: string, key?: string) => openai.chat.completions.create(request(content), keyed(key)),
    stream: (content: string, key?: string) =>
      openai.chat.completions.create({ ...request(content), stream: true }, keyed(key)),
    take: (server: Server) => talk(server).takeOne(model),
    tasks: async () => (await psql.query('select from tasklane.task_status where queue = $1', [model])).rowCount,
  };
}

const contentOf = (task: { data: { messages: { content: string }[] } }) => task.data.messages[0]?.content;
const answer = (content: unknown) => ({
  object: 'chat.completion',
  choices: [{ index: 0, message: { role: 'assistant', content }, finish_reason: 'stop' }],
});
const chunk = (taskId: string, content: string) =>
  progress(taskId, { object: 'chat.completion.chunk', choices: [{ index: 0, delta: { content } }] });

async function read(stream: AsyncIterable<OpenAI.ChatCompletionChunk>, into: (string | null | undefined)[] = []) {
  for await (const { choices } of stream) into.push(choices[0]?.delta.content);
  return into;
}

describe('a server killed with kill -9 in the middle of', { concurrency: TESTS }, () => {
  test('many questions under keys: the SDK asks again, each is answered as it was asked, and is one task', async () => {
    const { ask, take, tasks } = await program('many');
    const many = 30;
    const asked = Array.from({ length: many }, (_, n) => ask(`question ${n}`, `key ${n}`));
    const taken = [];
    while (taken.length < many / 3) taken.push(await take(first));
    for (const task of taken.slice(many / 6)) await talk(first).complete(task.task_id, answer(contentOf(task)));
    const second = await restart();
    for (const task of taken.slice(0, many / 6)) await talk(second).complete(task.task_id, answer(contentOf(task)));
    for (let left = many - taken.length; left > 0; left--) {
      const task = await take(second);
      await talk(second).complete(task.task_id, answer(contentOf(task)));
    }
    const answers = await Promise.all(asked);
    assert.deepEqual(
      answers.map(({ choices }) => choices[0]?.message.content),
      Array.from({ length: many }, (_, n) => `question ${n}`),
    );
    assert.equal(await tasks(), many);
  });

  test('a question without a key: it is asked again as a second task, and the first is answered as well', async () => {
    const { ask, take, tasks } = await program('once');
    const asked = ask('once');
    const { task_id: id } = await take(first);
    const second = await restart();
    const again = await take(second);
    for (const one of [id, again.task_id]) await talk(second).complete(one, answer(one));
    assert.equal((await asked).choices[0]?.message.content, again.task_id);
    assert.equal((await talk(second).task(id)).status, 'succeeded');
    assert.equal(await tasks(), 2);
  });

  test('a stream before its first chunk: under its key the SDK asks again, and has all of it', async () => {
    const { stream, take, tasks } = await program('early');
    const asked = stream('one two', 'a key');
    const { task_id: id } = await take(first);
    const second = await restart();
    await talk(second).emit([chunk(id, 'one '), chunk(id, 'two')]);
    await talk(second).complete(id, {});
    assert.deepEqual(await read(await asked), ['one ', 'two']);
    assert.equal(await tasks(), 1);
  });

  test('a stream: it breaks rather than ends, and under its key is there from its first chunk on', async () => {
    const { stream, take, tasks } = await program('late');
    const asked = stream('one two three', 'a key');
    const { task_id: id } = await take(first);
    await talk(first).emit([chunk(id, 'one ')]);
    const came: string[] = [];
    const broken = assert.rejects(asked.then((chunks) => read(chunks, came)));
    await until('the first chunk is there', async () => came.length === 1);
    const restarted = restart();
    await broken;
    const second = await restarted;
    await talk(second).emit([chunk(id, 'two ')]);
    const again = stream('one two three', 'a key');
    await talk(second).emit([chunk(id, 'three')]);
    await talk(second).complete(id, {});
    assert.deepEqual(came, ['one ']);
    assert.deepEqual(await read(await again), ['one ', 'two ', 'three']);
    assert.equal(await tasks(), 1);
  });
});
