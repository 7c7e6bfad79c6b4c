import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import OpenAI from 'openai';
import OpenAI6 from 'openai-6';
import { type Json, until } from '../support/server.ts';
import { CHAT, EMBED, fixture } from './fixture.ts';

const f = fixture();

const COMPLETION = {
  id: 'chatcmpl-1',
  object: 'chat.completion',
  created: 1,
  model: 'm',
  choices: [{ index: 0, message: { role: 'assistant', content: 'Hi!' }, finish_reason: 'stop' }],
};
const chunkOf = (content: string) => ({
  id: 'chatcmpl-1',
  object: 'chat.completion.chunk',
  created: 1,
  model: 'm',
  choices: [{ index: 0, delta: { content }, finish_reason: null }],
});
const RESPONSE = {
  id: 'resp_1',
  object: 'response',
  status: 'completed',
  output: [{ type: 'message', id: 'msg_1', role: 'assistant', content: [{ type: 'output_text', text: 'Hi!' }] }],
};
const messages = [{ role: 'user' as const, content: 'Hello' }];

// Both have the same methods; the types of one do for the other.
for (const [name, Client] of [
  ['openai 7', OpenAI],
  ['openai 6', OpenAI6 as unknown as typeof OpenAI],
] as const)
  describe(`a program written for ${name}`, { concurrency: true }, () => {
    const clientOf = (options: object = {}) =>
      new Client({ baseURL: `${f.server.url}/v1`, apiKey: f.keys.client, maxRetries: 0, ...options });

    /** What a call gives whose task the worker answers with this. */
    async function answered<Value>(queue: string, call: Promise<Value>, body: unknown, status = 200): Promise<Value> {
      const settled = Promise.allSettled([call]);
      const { task_id } = await f.takeOne(`${queue}:0`);
      await f.complete(task_id, body, { status_code: status });
      await settled;
      return call;
    }

    /** A chat stream with its task taken, reporting to the other server. */
    async function chat(signal?: AbortSignal) {
      const queue = await f.queue();
      const call = clientOf().chat.completions.create(
        { model: queue, messages, stream: true },
        { signal: signal ?? null },
      );
      call.catch(() => undefined);
      const task = await f.takeOne(`${queue}:0`);
      const emit = async (content: string) => {
        const payload = { taskId: task.task_id, eventName: 'chunk', eventData: chunkOf(content) };
        const told = await (await f.second()).request('POST', '/v1/queue/events', {
          name: 'task-progress-event',
          payload,
        });
        assert.equal(told.status, 200, told.text);
      };
      const heartbeat = async () =>
        (await (await f.second()).request('POST', '/v1/queue/heartbeat', { tasks: [task] })).json as Json;
      return { call, task, emit, heartbeat };
    }

    test('chats', async () => {
      const queue = await f.queue();
      const { data, request_id } = await answered(
        queue,
        clientOf().chat.completions.create({ model: queue, messages }).withResponse(),
        COMPLETION,
      );
      assert.equal(data.choices[0]?.message.content, 'Hi!');
      assert.match(request_id ?? '', /^req_/);
    });

    test('completes texts', async () => {
      const queue = await f.queue('/v1/completions');
      const body = { id: 'cmpl-1', object: 'text_completion', choices: [{ text: ' world', index: 0 }] };
      const { choices } = await answered(queue, clientOf().completions.create({ model: queue, prompt: 'Hello' }), body);
      assert.equal(choices[0]?.text, ' world');
    });

    test('gets embeddings, which it asks for in base64', async () => {
      const queue = await f.queue(EMBED);
      const call = clientOf().embeddings.create({ model: queue, input: 'Hello' });
      const { task_id, data } = await f.takeOne(`${queue}:0`);
      assert.equal(data.encoding_format, 'base64');
      const embedding = Buffer.from(new Float32Array([0.5, -2]).buffer).toString('base64');
      await f.complete(task_id, { object: 'list', data: [{ object: 'embedding', index: 0, embedding }] });
      assert.deepEqual((await call).data[0]?.embedding, [0.5, -2]);
    });

    test('gets moderations', async () => {
      const queue = await f.queue('/v1/moderations');
      const body = { id: 'modr-1', model: queue, results: [{ flagged: false }] };
      const call = clientOf().moderations.create({ model: queue, input: 'Hello' });
      assert.equal((await answered(queue, call, body)).results[0]?.flagged, false);
    });

    test('gets responses, whole and as a stream', async () => {
      const queue = await f.queue('/v1/responses');
      const client = clientOf();
      const whole = await answered(queue, client.responses.create({ model: queue, input: 'Hello' }), RESPONSE);
      assert.equal(whole.output_text, 'Hi!');

      const call = client.responses.create({ model: queue, input: 'Hello', stream: true });
      const { task_id } = await f.takeOne(`${queue}:0`);
      const sent = [
        { type: 'response.created', sequence_number: 0, response: { ...RESPONSE, status: 'in_progress' } },
        { type: 'response.output_text.delta', sequence_number: 1, delta: 'Hi!' },
        { type: 'response.completed', sequence_number: 2, response: RESPONSE },
      ];
      for (const event of sent) await f.emit(task_id, 'chunk', event);
      await f.complete(task_id, RESPONSE);
      const got = [];
      for await (const event of await call) got.push(event);
      assert.deepEqual(got, sent);
    });

    test('reads a stream of chunks as they come, up to its end', async () => {
      const { call, task, emit } = await chat();
      await emit('a');
      const got: string[] = [];
      for await (const chunk of await call) {
        got.push(chunk.choices[0]?.delta.content ?? '');
        if (got.length < 5) await emit('abcde'[got.length] as string);
        else if (got.length === 5) await f.complete(task.task_id);
      }
      assert.equal(got.join(''), 'abcde');
    });

    test('that breaks out of a stream cancels its task at once, and the worker hears of it', async () => {
      const { call, task, emit, heartbeat } = await chat();
      await emit('a');
      for await (const _ of await call) break;
      await until(async () => (await f.status(task.task_id)) === 'cancelled');
      assert.deepEqual((await heartbeat()).cancelled, [task.task_id]);
    });

    test('that aborts after the first chunk, or before it, cancels its task at once', async () => {
      const after = await chat();
      await after.emit('a');
      const stream = await after.call;
      for await (const _ of stream) stream.controller.abort();
      const controller = new AbortController();
      const before = await chat(controller.signal);
      controller.abort();
      await assert.rejects(before.call, Client.APIUserAbortError);
      for (const { task, heartbeat } of [after, before]) {
        await until(async () => (await f.status(task.task_id)) === 'cancelled');
        assert.deepEqual((await heartbeat()).cancelled, [task.task_id]);
      }
    });

    test('that has no more time leaves no task behind', async () => {
      const queue = await f.queue();
      const client = clientOf({ timeout: 300 });
      const call = client.chat.completions.create({ model: queue, messages });
      await assert.rejects(call, Client.APIConnectionTimeoutError);
      await until(async () => {
        const { json } = await f.client('GET', `/v1/tasks?queue=${queue}`);
        return json.data.length === 1 && json.data[0].status === 'cancelled';
      });
    });

    test('catches an error in the middle of a stream', async () => {
      for (const end of ['failed', 'cancelled'] as const) {
        const { call, task, emit } = await chat();
        await emit('a');
        const got: string[] = [];
        const reading = (async () => {
          for await (const chunk of await call) {
            got.push(chunk.choices[0]?.delta.content ?? '');
            if (end === 'cancelled') await f.client('POST', `/v1/queue/${task.task_id}/cancel`);
            else await f.complete(task.task_id, { error: { message: 'boom', code: 'oom' } }, { status_code: 500 });
          }
        })();
        await assert.rejects(reading, (error) => {
          assert.ok(error instanceof Client.APIError);
          assert.equal(error.code, end === 'failed' ? 'oom' : 'request_cancelled');
          return true;
        });
        assert.deepEqual(got, ['a']);
      }
    });

    for (const [status, ErrorClass] of [
      [400, Client.BadRequestError],
      [403, Client.PermissionDeniedError],
      [422, Client.UnprocessableEntityError],
      [429, Client.RateLimitError],
      [500, Client.InternalServerError],
    ] as const)
      test(`catches ${ErrorClass.name} where the worker answers ${status}, streaming or not`, async () => {
        for (const stream of [false, true]) {
          const queue = await f.queue();
          const call: Promise<unknown> = clientOf().chat.completions.create({ model: queue, messages, stream });
          const error = { message: 'no', type: 't', param: 'messages', code: 'c' };
          await assert.rejects(answered(queue, call, { error }, status), (thrown) => {
            assert.ok(thrown instanceof ErrorClass);
            const { message, type, param, code } = thrown;
            assert.deepEqual({ message, type, param, code }, { ...error, message: `${status} no` });
            assert.match(thrown.requestID ?? '', /^req_/);
            return true;
          });
        }
      });

    test('catches what it would at OpenAI: an unknown model, a wrong key', async () => {
      const create = (options: object = {}) =>
        clientOf(options).chat.completions.create({ model: 'gpt-nothing', messages });
      await assert.rejects(
        create(),
        (error) => error instanceof Client.NotFoundError && error.code === 'model_not_found',
      );
      await assert.rejects(
        create({ apiKey: 'sk-nobody' }),
        (error) => error instanceof Client.AuthenticationError && error.code === 'invalid_api_key',
      );
    });

    test('repeats what may go better, and not what has ended', async () => {
      const queue = await f.queue(CHAT, { max_attempts: 1 });
      const client = clientOf({ maxRetries: 1 });
      const repeated = client.chat.completions.create({ model: queue, messages });
      const first = await f.takeOne(`${queue}:0`);
      await f.complete(first.task_id, { error: { message: 'busy' } }, { status_code: 503 });
      await answered(queue, repeated, COMPLETION);

      const dead = client.chat.completions.create({ model: queue, messages });
      const caught = assert.rejects(
        dead,
        (error) => error instanceof Client.InternalServerError && error.status === 502,
      );
      await f.worker('POST', `/v1/queue/${(await f.takeOne(`${queue}:0`)).task_id}/release`);
      await caught;
      assert.equal((await f.worker('GET', `/v1/queue/${queue}:0/stats`)).json.total_put_cnt, 3);
    });
  });

test('the SDK stands for many: each call of 200 at once gets its own answer', async () => {
  const queue = await f.queue(CHAT);
  const client = new OpenAI({ baseURL: `${f.server.url}/v1`, apiKey: f.keys.client, maxRetries: 0 });
  const calls = Array.from({ length: 200 }, (_, n) =>
    client.chat.completions.create({ model: queue, messages: [{ role: 'user', content: String(n) }] }),
  );
  for (let done = 0; done < calls.length; ) {
    const tasks = await f.take(`${queue}:0`, { size: 100, wait: 10 });
    const results = tasks.map(({ task_id, data }) => {
      const message = { role: 'assistant', content: `re: ${data.messages[0].content}` };
      return { task_id, status_code: 200, body: { ...COMPLETION, choices: [{ index: 0, message }] } };
    });
    await f.worker('POST', '/v1/queue/complete', { results });
    done += tasks.length;
  }
  for (const [n, completion] of (await Promise.all(calls)).entries())
    assert.equal(completion.choices[0]?.message.content, `re: ${n}`);
});
