import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { describe, test } from 'node:test';
import { type Answer, type Json, until } from '../support/server.ts';
import { assertOpenAiError, CHAT, EMBED, fixture } from './fixture.ts';

const f = fixture();
const DOORS = [CHAT, EMBED, '/v1/completions', '/v1/responses', '/v1/moderations'];

const ask = (path: string, body: unknown, options = {}) => f.client('POST', path, body, options);
/** What came to the queue, after how it is checked and completed. */
const answerNext = async (queue: string, status: number, body: unknown): Promise<Json> => {
  const task = await f.takeOne(`${queue}:0`);
  const done = await f.complete(task.task_id, body, { status_code: status });
  assert.equal(done.status, 200, done.text);
  return task;
};
const stats = async (queue: string) => (await f.worker('GET', `/v1/queue/${queue}:0/stats`)).json;

describe('a request to a model', { concurrency: true }, () => {
  for (const path of DOORS)
    test(`at ${path} is a blocking task at level 0 whose data is the body, and is answered as the worker answers`, async () => {
      const queue = await f.queue(path);
      const answer = ask(path, { model: queue, input: 'x', stream: false, more: { n: 1.5 } });
      const task = await answerNext(queue, 200, { id: 'x', object: 'list' });
      const { response_mode, level, endpoint, data, expire_time, start_time } = task;
      assert.deepEqual([response_mode, level, endpoint], ['blocking', 0, path]);
      assert.deepEqual(data, { model: queue, input: 'x', stream: false, more: { n: 1.5 } });
      assert.equal(expire_time - start_time, 600_000);
      const { status, headers, json } = await answer;
      assert.deepEqual([status, json], [200, { id: 'x', object: 'list' }]);
      assert.equal(headers.get('x-task-id'), task.task_id);
      assert.match(headers.get('x-request-id') ?? '', /^req_[0-9a-f]{32}$/);
      assert.match(headers.get('content-type') ?? '', /^application\/json/);
    });

  test('passes both ways to the letter', async () => {
    const queue = await f.queue();
    const body = `{ "model": "${queue}", "n": 1.0,\n "big": 12345678901234567890, "nul": "\\u0000", "a": 1, "a": 2 }`;
    const answer = ask(CHAT, body);
    const taken = await f.worker('POST', '/v1/queue/take', { queues: [`${queue}:0`], size: 1, wait: 10 });
    assert.ok(taken.text.includes(`"data":${body}`), taken.text);
    const id = taken.json[`${queue}:0`][0].task_id;
    await f.worker('POST', `/v1/queue/${id}/complete`, '{"status_code":200,"body":{"x": 1.0, "y":[1e3]}}');
    assert.equal((await answer).text, '{"x": 1.0, "y":[1e3]}');
  });

  for (const status of [201, 400, 418, 429, 500])
    test(`gets the ${status} of its worker as it is`, async () => {
      const queue = await f.queue();
      const answer = ask(CHAT, { model: queue });
      const body = { error: { message: 'no', type: 'mine', param: 'p', code: 'c', more: 1 } };
      await answerNext(queue, status, body);
      assert.deepEqual([(await answer).status, (await answer).json], [status, body]);
      const { headers } = await answer;
      assert.equal(headers.get('x-should-retry'), status === 500 ? 'false' : null);
      assert.equal(headers.get('retry-after'), status === 429 ? '1' : null);
    });

  test('gets the last answer of a model server in vain: its status and words, not to be repeated', async () => {
    const body = { error: { message: 'CUDA out of memory', type: 'server_error', param: null, code: 'oom' } };
    for (const stream of [false, true])
      for (const status of [500, 502, 504, 408, 409]) {
        const queue = await f.queue(CHAT, { live_attempts: 1 });
        const answer = ask(CHAT, { model: queue, stream });
        const { task_id: id } = await f.takeOne(`${queue}:0`);
        await f.worker('POST', `/v1/queue/${id}/release`, { answer: { status_code: status, body } });
        assert.deepEqual([(await answer).status, (await answer).json], [status, body]);
        assert.equal((await answer).headers.get('x-should-retry'), 'false');
        assert.equal((await answer).headers.get('retry-after'), null);
      }
  });

  test('gets a refusal that lasts as it is, with when to come again', async () => {
    const body = { error: { message: 'slow down', type: 'rate_limit_error', param: null, code: null } };
    const inThirty = new Date(Date.now() + 30_000).toUTCString();
    const servers = [f.server, await f.second()];
    for (const [nth, [status, given, told]] of (
      [
        [429, '7', /^7$/],
        [503, '0.2', /^1$/],
        [429, '3600', /^59$/],
        [503, inThirty, /^(2\d|30)$/],
        [429, 'soon', /^1$/],
        [503, undefined, /^1$/],
      ] as const
    ).entries()) {
      const queue = await f.queue(CHAT, { live_refusal_seconds: 0 });
      const server = servers[nth % 2] as typeof f.server;
      const answer = server.request('POST', CHAT, { model: queue }, { key: f.keys.client });
      const { task_id: id } = await f.takeOne(`${queue}:0`);
      const headers = given === undefined ? undefined : { 'Retry-After': given };
      await f.worker('POST', `/v1/queue/${id}/release`, {
        begun: false,
        answer: { status_code: status, body, headers },
      });
      assert.deepEqual([(await answer).status, (await answer).json], [status, body]);
      assert.match((await answer).headers.get('retry-after') ?? '', told);
      assert.equal((await answer).headers.get('x-should-retry'), null);
    }
  });

  test('goes where its channel says', async () => {
    const queue = await f.queue(EMBED);
    const model = `org/${queue}-v1.5`;
    await f.worker('POST', '/v1/channels', { endpoint: EMBED, model, queue });
    const answer = ask(EMBED, { model, input: ['a'] });
    await answerNext(queue, 200, { ok: true });
    assert.deepEqual((await answer).json, { ok: true });
  });

  test('to moderations without a model asks for the one that is usual at OpenAI', async () => {
    const queue = await f.queue('/v1/moderations');
    await f.worker('POST', '/v1/channels', { endpoint: '/v1/moderations', model: 'omni-moderation-latest', queue });
    for (const body of [{ input: 'x' }, { input: 'x', model: null }]) {
      const answer = ask('/v1/moderations', body);
      assert.deepEqual((await answerNext(queue, 200, { results: [] })).data, body);
      assert.equal((await answer).status, 200);
    }
  });

  test('to a model that has no route is told so, and puts nothing', async () => {
    const embeds = await f.queue(EMBED);
    await f.worker('POST', '/v1/channels', { endpoint: EMBED, model: 'elsewhere', queue: embeds });
    for (const model of ['gpt-nothing', embeds, 'elsewhere']) {
      const message =
        model === 'gpt-nothing'
          ? `The model '${model}' does not exist or you do not have access to it.`
          : `The model '${model}' is not served at ${CHAT}, but at ${EMBED}.`;
      for (const stream of [false, true])
        assertOpenAiError(await ask(CHAT, { model, stream }), 404, 'model_not_found', message);
    }
    assert.equal((await stats(embeds)).total_put_cnt ?? 0, 0);
  });

  test('that is not one is refused in words that name the field', async () => {
    const bad: [unknown, string | null, string | null, RegExp][] = [
      [{}, 'model', 'missing_required_parameter', /^Missing required parameter: 'model'\.$/],
      [
        { model: 7 },
        'model',
        'invalid_type',
        /^Invalid type for 'model': expected a string, but got a number instead\.$/,
      ],
      [{ model: null }, 'model', 'invalid_type', /got null/],
      [{ model: '' }, 'model', 'empty_string', /^Invalid 'model'/],
      [{ model: 'x'.repeat(257) }, 'model', 'string_above_max_length', /^Invalid 'model'/],
      [{ model: 'a\0b' }, 'model', 'invalid_value', /NUL/],
      [{ model: 'm', stream: 'yes' }, 'stream', 'invalid_type', /^Invalid type for 'stream': expected a boolean/],
      [[], null, 'invalid_type', /^Invalid type for the body: expected an object, but got an array instead\.$/],
      ['"x"', null, 'invalid_type', /expected an object/],
      ['{"model":', null, null, /^We could not parse the JSON body of your request\. /],
      ['', null, null, /^We could not parse the JSON body of your request\. /],
    ];
    for (const path of DOORS.slice(0, 4))
      for (const [body, param, code, message] of bad) {
        const answer = await ask(path, body);
        assertOpenAiError(answer, 400, code, message);
        assert.equal(answer.json.error.param, param, answer.text);
        assert.equal(answer.json.error.type, 'invalid_request_error');
      }
    assertOpenAiError(await ask(CHAT, { model: 'm' }, { headers: { 'Idempotency-Key': 'x'.repeat(256) } }), 400);
  });

  test('with a body beyond the limit is a 413', async () => {
    assertOpenAiError(await ask(CHAT, Buffer.alloc(11_000_000, ' ')), 413, null, /larger than/);
  });

  test('needs the key of a client, and to be a POST', async () => {
    assertOpenAiError(await f.server.request('POST', CHAT, {}, { key: null }), 401, null);
    assertOpenAiError(await f.server.request('POST', CHAT, {}, { key: 'sk-nobody' }), 401, 'invalid_api_key');
    assertOpenAiError(await f.worker('POST', CHAT, {}), 403);
    assertOpenAiError(await f.admin('POST', CHAT, {}), 400);
    assertOpenAiError(await f.client('GET', CHAT), 405, 'method_not_supported');
    assertOpenAiError(await f.client('GET', '/v1/responses/resp_1'), 404);
  });

  test('that nobody answers is a 408, 499 or 502 that is not to be repeated', async () => {
    const ends: [number, string, (id: string, queue: string) => Promise<unknown>][] = [
      [499, 'request_cancelled', (id) => f.client('POST', `/v1/queue/${id}/cancel`)],
      [502, 'attempts_exhausted', (id) => f.worker('POST', `/v1/queue/${id}/release`)],
    ];
    for (const [status, code, end] of ends)
      for (const stream of [false, true]) {
        const queue = await f.queue(CHAT, { max_attempts: 1 });
        const answer = ask(CHAT, { model: queue, stream });
        const { task_id } = await f.takeOne(`${queue}:0`);
        await end(task_id, queue);
        assertOpenAiError(await answer, status, code);
        assert.equal((await answer).headers.get('x-should-retry'), 'false');
        assert.equal((await answer).headers.get('x-task-id'), task_id);
      }
  });

  test('is cancelled at once when its client hangs up, waiting or running', async () => {
    const queue = await f.queue();
    for (const stream of [false, true]) {
      const hangUp = new AbortController();
      const gone = [0, 1].map(() => ask(CHAT, { model: queue, stream }, { signal: hangUp.signal }));
      const settled = Promise.allSettled(gone);
      const { task_id, attempt } = await f.takeOne(`${queue}:0`);
      await until(async () => ((await stats(queue)).total_put_cnt ?? 0) === (stream ? 4 : 2));
      hangUp.abort();
      await settled;
      await until(async () => (await stats(queue)).total_completed_cnt === (stream ? 4 : 2));
      const { json } = await f.worker('POST', '/v1/queue/heartbeat', { tasks: [{ task_id, attempt }] });
      assert.deepEqual(json, { extended: [], lost: [], cancelled: [task_id] });
      const { json: list } = await f.client('GET', `/v1/tasks?queue=${queue}&status=cancelled`);
      assert.equal(list.data.length, stream ? 4 : 2);
    }
  });

  test('is cancelled when its client is gone before the task is stored', async () => {
    const queue = await f.queue();
    await Promise.all(
      Array.from({ length: 10 }, async (_, n) => {
        const body = JSON.stringify({ model: queue, stream: n % 2 === 0 });
        const socket = connect(Number(new URL(f.server.url).port), '127.0.0.1');
        await once(socket, 'connect');
        const head = `POST ${CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${f.keys.client}\r\n`;
        socket.write(`${head}Content-Length: ${body.length}\r\n\r\n${body}`, () => socket.destroy());
        await once(socket, 'close');
      }),
    );
    await until(async () => {
      const { total_put_cnt, total_completed_cnt } = await stats(queue);
      return total_put_cnt === 10 && total_completed_cnt === 10;
    });
    assert.equal((await f.client('GET', `/v1/tasks?queue=${queue}&status=cancelled`)).json.data.length, 10);
  });

  test('comes back to its own caller, however many wait', async () => {
    const queue = await f.queue();
    const answers = Promise.all(
      Array.from({ length: 300 }, (_, n) =>
        ask(n % 2 ? CHAT : `${CHAT}?n=${n}`, { model: queue, n, stream: n % 3 === 0 }),
      ),
    );
    for (let done = 0; done < 300; ) {
      const tasks = await f.take(`${queue}:0`, { size: 100, wait: 10 });
      await Promise.all(tasks.map((task) => f.complete(task.task_id, { n: task.data.n })));
      done += tasks.length;
    }
    for (const [n, answer] of (await answers).entries())
      assert.equal(answer.text, n % 3 === 0 ? `data: {"n":${n}}\n\ndata: [DONE]\n\n` : `{"n":${n}}`);
  });
});

describe('a limit that is reached', () => {
  test('is a 429 that says when to come again: the queue full, the tenant at its limit', async () => {
    const queue = await f.queue(CHAT, { max_depth: 1 });
    const first = ask(CHAT, { model: queue });
    await until(async () => (await f.worker('GET', `/v1/queue/${queue}:0/backlog`)).json === 1);
    const full = await ask(CHAT, { model: queue });
    assertOpenAiError(full, 429, 'rate_limit_exceeded');
    assert.ok(Number(full.headers.get('retry-after')) >= 1);
    await answerNext(queue, 200, {});
    await first;

    const free = await f.queue();
    await f.admin('PATCH', '/v1/tenants/other', { max_in_flight: 1 });
    const hangUp = new AbortController();
    const held = f.other('POST', CHAT, { model: free }, { signal: hangUp.signal }).catch(() => undefined);
    await until(async () => (await f.worker('GET', `/v1/queue/${free}:0/backlog`)).json === 1);
    const over = await f.other('POST', CHAT, { model: free, stream: true });
    assertOpenAiError(over, 429, 'rate_limit_exceeded');
    assert.ok(Number(over.headers.get('retry-after')) >= 1);
    hangUp.abort();
    await held;
  });
});

describe('a request under an Idempotency-Key', { concurrency: true }, () => {
  const keyed = (key: string, body: object, path = CHAT): Promise<Answer> =>
    ask(path, body, { headers: { 'Idempotency-Key': key } });

  test('that is repeated gets the answer of the first, streamed as well', async () => {
    for (const stream of [false, true]) {
      const queue = await f.queue();
      const body = { model: queue, stream };
      const answers = [keyed(`${queue} k`, body), keyed(`${queue} k`, body)];
      await answerNext(queue, 200, { n: 1 });
      const texts = (await Promise.all([...answers, keyed(`${queue} k`, body)])).map(({ text }) => text);
      assert.deepEqual(new Set(texts), new Set([stream ? 'data: {"n":1}\n\ndata: [DONE]\n\n' : '{"n":1}']));
      assert.equal((await stats(queue)).total_put_cnt, 1);
    }
  });

  test('with another body, or at another endpoint, is a conflict that is not to be repeated', async () => {
    const queue = await f.queue();
    await f.worker('POST', '/v1/queue/register', { queue: `${queue}e`, endpoint: EMBED });
    await f.worker('POST', '/v1/channels', { endpoint: EMBED, model: queue, queue: `${queue}e` });
    const first = keyed(`${queue} k`, { model: queue });
    await answerNext(queue, 200, {});
    await first;
    for (const answer of [
      await keyed(`${queue} k`, { model: queue, n: 2 }),
      await keyed(`${queue} k`, { model: queue }, EMBED),
    ]) {
      assertOpenAiError(answer, 409, null, /idempotency key/);
      assert.equal(answer.headers.get('x-should-retry'), 'false');
    }
  });
});
