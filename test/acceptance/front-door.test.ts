import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import OpenAI from 'openai';
import { ownDatabase, type Server } from '../support/server.ts';
import { progress, talk, until } from './clients.ts';

const MODEL = 'm';

/** A server that is killed and comes back at the same address, and a program written for OpenAI that talks to it. */
async function setting(t: TestContext) {
  const { psql, start } = await ownDatabase(t);
  const first = await start();
  await talk(first).register(MODEL);
  const openai = new OpenAI({ apiKey: first.adminKey, baseURL: `${first.url}/v1`, maxRetries: 10 });
  const request = (content: string) => ({ model: MODEL, messages: [{ role: 'user' as const, content }] });
  const keyed = (key?: string) => (key === undefined ? {} : { headers: { 'Idempotency-Key': key } });
  return {
    first,
    async restart(): Promise<Server> {
      await first.kill('SIGKILL');
      return start({ env: { PORT: new URL(first.url).port } });
    },
    tasks: async () => (await psql.query('select from tasklane.task')).rowCount,
    ask: (content: string, key?: string) => openai.chat.completions.create(request(content), keyed(key)),
    stream: (content: string, key?: string) =>
      openai.chat.completions.create({ ...request(content), stream: true }, keyed(key)),
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

describe('a server killed with kill -9 in the middle of', { concurrency: true }, () => {
  test('many questions under keys: the SDK asks again, each is answered as it was asked, and is one task', async (t) => {
    const { first, restart, ask, tasks } = await setting(t);
    const many = 30;
    const asked = Array.from({ length: many }, (_, n) => ask(`question ${n}`, `key ${n}`));
    const taken = [];
    while (taken.length < many / 3) taken.push(await talk(first).takeOne(MODEL));
    for (const task of taken.slice(many / 6)) await talk(first).complete(task.task_id, answer(contentOf(task)));
    const second = await restart();
    for (const task of taken.slice(0, many / 6)) await talk(second).complete(task.task_id, answer(contentOf(task)));
    for (let left = many - taken.length; left > 0; left--) {
      const task = await talk(second).takeOne(MODEL);
      await talk(second).complete(task.task_id, answer(contentOf(task)));
    }
    const answers = await Promise.all(asked);
    assert.deepEqual(
      answers.map(({ choices }) => choices[0]?.message.content),
      Array.from({ length: many }, (_, n) => `question ${n}`),
    );
    assert.equal(await tasks(), many);
  });

  test('a question without a key: it is asked again as a second task, and the first is answered as well', async (t) => {
    const { first, restart, ask, tasks } = await setting(t);
    const asked = ask('once');
    const { task_id: id } = await talk(first).takeOne(MODEL);
    const second = await restart();
    const again = await talk(second).takeOne(MODEL);
    for (const one of [id, again.task_id]) await talk(second).complete(one, answer(one));
    assert.equal((await asked).choices[0]?.message.content, again.task_id);
    assert.equal((await talk(second).task(id)).status, 'succeeded');
    assert.equal(await tasks(), 2);
  });

  test('a stream before its first chunk: under its key the SDK asks again, and has all of it', async (t) => {
    const { first, restart, stream, tasks } = await setting(t);
    const asked = stream('one two', 'a key');
    const { task_id: id } = await talk(first).takeOne(MODEL);
    const second = await restart();
    await talk(second).emit([chunk(id, 'one '), chunk(id, 'two')]);
    await talk(second).complete(id, {});
    assert.deepEqual(await read(await asked), ['one ', 'two']);
    assert.equal(await tasks(), 1);
  });

  test('a stream: it breaks rather than ends, and under its key is there from its first chunk on', async (t) => {
    const { first, restart, stream, tasks } = await setting(t);
    const asked = stream('one two three', 'a key');
    const { task_id: id } = await talk(first).takeOne(MODEL);
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
