import assert from 'node:assert/strict';
import { test } from 'node:test';
import { httpExecutor } from '../../../client/executors/http.ts';
import { answered, givenBack, json, listen, recorded, work } from './support.ts';

const executor = (url: string) => httpExecutor({ upstreams: [{ url }] });

test('a task’s data is POSTed to the URL as it is, with the task’s id and attempt, and the reply is the answer', async () => {
  await using server = await listen((_, res) => json(res, 202, { done: true }));
  const task = recorded({ attempt: 3, data: { n: 1, stream: true } });
  assert.deepEqual(answered(await work(executor(`${server.url}/hook?x=1`), task)), {
    status: 202,
    body: { done: true },
  });
  const [heard] = server.requests;
  assert.deepEqual([heard?.method, heard?.url, heard?.body], ['POST', '/hook?x=1', '{"n":1,"stream":true}']);
  assert.equal(heard?.headers['x-task-id'], task.task.task_id);
  assert.equal(heard?.headers['x-task-attempt'], '3');
  assert.equal(heard?.headers.accept, 'application/json');
});

test('a reply that is no JSON is its text', async () => {
  await using server = await listen((_, res) => res.end('well done'));
  assert.deepEqual(answered(await work(executor(server.url))), { status: 200, body: { text: 'well done' } });
});

test('a 4xx is the answer, and a 500 gives the task back', async () => {
  await using server = await listen((_, res, count) => json(res, count === 1 ? 422 : 500, { error: 'no' }));
  assert.deepEqual(answered(await work(executor(server.url))), { status: 422, body: { error: 'no' } });
  assert.equal(givenBack(await work(executor(server.url))).reason, 'the model server answered 500: no');
});

test('a streaming task asks for events, which are passed on, and its answer is the list of them', async () => {
  await using server = await listen(({ headers }, res) => {
    assert.match(headers.accept as string, /text\/event-stream/);
    res.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8' });
    res.end('data: {"n": 1.0}\n\nevent: note\ndata: any words\n\ndata: [DONE]\n\n');
  });
  const task = recorded({ response_mode: 'streaming' });
  assert.deepEqual(answered(await work(executor(server.url), task)), { status: 200, body: [{ n: 1 }, 'any words'] });
  assert.deepEqual(task.events, [
    ['chunk', '{"n": 1.0}'],
    ['note', '"any words"'],
  ]);
});

test('a streaming task whose reply is plain has it as its answer', async () => {
  await using server = await listen((_, res) => json(res, 200, { plain: true }));
  const task = recorded({ response_mode: 'streaming' });
  assert.deepEqual(answered(await work(executor(server.url), task)).body, { plain: true });
  assert.deepEqual(task.events, []);
});
