import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { httpExecutor } from '../../../client/executors/http.ts';
import { openAiExecutor } from '../../../client/executors/openai.ts';
import { JsonText } from '../../../client/worker/executor.ts';
import { answered, givenBack, json, listen, recorded, work } from './support.ts';

/** Nobody listens there. */
const NOWHERE = 'http://127.0.0.1:9';
const until = async (is: () => boolean) => {
  while (!is()) await sleep(5);
};

describe('what a reply means', { concurrency: true }, () => {
  const answering = async (status: number, body: unknown, headers = {}) => {
    const server = await listen((_, res) => json(res, status, body, headers));
    const executor = openAiExecutor({ upstreams: [{ url: server.url }] });
    return { server, executor, [Symbol.asyncDispose]: () => server.close() };
  };

  test('a 2xx with JSON is the answer, to the letter, with the status and the request id', async () => {
    await using one = await answering(201, '{"n": 1.0}', { 'x-request-id': 'r'.repeat(300) });
    const { answer } = await work(one.executor);
    assert.deepEqual(answer, {
      status_code: 201,
      body: new JsonText('{"n": 1.0}'),
      request_id: 'r'.repeat(256),
      headers: { 'x-request-id': 'r'.repeat(300) },
    });
  });

  test('a 4xx is the answer, and one without JSON gets an error around its text', async () => {
    for (const status of [400, 404, 409, 422]) {
      await using one = await answering(status, { error: { message: 'no' } });
      assert.deepEqual(answered(await work(one.executor)), { status, body: { error: { message: 'no' } } });
    }
    await using one = await answering(413, '<h1>Too large</h1>');
    const { status, body } = answered(await work(one.executor));
    assert.equal(status, 413);
    assert.equal((body as { error: { message: string } }).error.message, '<h1>Too large</h1>');
  });

  test('a refusal gives the task back without an attempt, after the time that the server asks for', async () => {
    const inAMinute = new Date(Date.now() + 60_000).toUTCString();
    for (const [status, asked, from, to] of [
      [429, '7', 7, 7],
      [503, inAMinute, 58, 60],
      [429, '86400', 3600, 3600],
      [425, undefined, 0.5, 1],
      [503, '0', 0.5, 1],
    ] as const) {
      await using one = await answering(status, { error: { message: 'busy' } }, asked ? { 'retry-after': asked } : {});
      const { later } = await work(one.executor);
      assert.equal(later?.begun, false);
      assert.ok(
        later?.delay_seconds !== undefined && later.delay_seconds >= from && later.delay_seconds <= to,
        `${asked}`,
      );
      assert.equal(later.reason, `the model server answered ${status}: busy`);
    }
  });

  test('the more a server refuses, the later tasks come back to it', async () => {
    await using one = await answering(429, {});
    const delays = [];
    for (let n = 0; n < 5; n++) delays.push((await work(one.executor)).later?.delay_seconds as number);
    assert.ok((delays[0] as number) <= 1);
    assert.ok((delays[4] as number) >= 2.5 && (delays[4] as number) <= 5);
  });

  test('what a server refuses comes back soon while it answers others', async () => {
    await using server = await listen((_, res, count) => json(res, count === 1 ? 200 : 429, {}));
    const executor = openAiExecutor({ upstreams: [{ url: server.url }] });
    await work(executor);
    for (let n = 0; n < 5; n++) assert.ok(((await work(executor)).later?.delay_seconds as number) <= 1);
  });

  test('what fails gives the task back with the answer, and the attempt counts', async () => {
    const broken = (message: string, code: string) => ({
      error: { message, type: 'upstream_error', param: null, code },
    });
    const notJson = "the model server's answer is not JSON: <h1>";
    for (const [status, body, reason, as] of [
      [500, { error: { message: 'no memory' } }, 'the model server answered 500: no memory', undefined],
      [408, 'slow', 'the model server answered 408: slow', broken('slow', 'upstream_error')],
      [200, '<h1>', notJson, broken(notJson, 'upstream_broken')],
    ] as const) {
      await using one = await answering(status, body);
      const { delay_seconds: _, ...later } = givenBack(await work(one.executor));
      assert.deepEqual(later, { reason, begun: undefined, status: status === 200 ? 502 : status, body: as ?? body });
    }
  });

  test('what it does not implement is an answer: no other try can change it', async () => {
    for (const status of [501, 505, 510]) {
      await using one = await answering(status, { error: { message: 'not here' } });
      assert.deepEqual(answered(await work(one.executor)), { status, body: { error: { message: 'not here' } } });
      assert.equal(one.server.requests.length, 1);
    }
  });

  test('a connection that breaks in the middle of an answer is a failure', async () => {
    await using server = await listen((_, res) => {
      res.writeHead(200, { 'Content-Length': 100 });
      res.write('{"a":', () => res.destroy());
    });
    const executor = openAiExecutor({ upstreams: [{ url: server.url }] });
    const { later } = await work(executor);
    assert.match(later?.reason as string, /^the connection to the model server broke/);
    assert.equal(later?.begun, undefined);
  });

  test('a call that takes longer than timeoutSeconds is a failure', async () => {
    await using silent = await listen(() => undefined);
    await using halting = await listen((_, res) => void res.writeHead(200).write('{'));
    for (const { url } of [silent, halting]) {
      const executor = openAiExecutor({ upstreams: [{ url }], timeoutSeconds: 0.05 });
      const { reason, begun, status } = givenBack(await work(executor));
      assert.deepEqual([reason, begun, status], ['no answer within 0.05 seconds', undefined, 504]);
    }
  });

  test('a refused connection, or a name that nobody has, gives the task back without an attempt', async () => {
    for (const url of [NOWHERE, 'http://nobody.invalid']) {
      const executor = openAiExecutor({ upstreams: [{ url }] });
      const { reason, begun, status, body } = givenBack(await work(executor));
      assert.deepEqual([begun, status], [false, 502]);
      assert.match(reason as string, /^no connection to the model server/);
      assert.equal((body as { error: { code: string } }).error.code, 'upstream_refused');
      await executor.close?.();
    }
  });
});

describe('trying again', { concurrency: true }, () => {
  test('what fails is one call, whatever upstreams there are', async () => {
    await using bad = await listen((_, res) => json(res, 502, {}));
    await work(openAiExecutor({ upstreams: [{ url: bad.url }] }));
    assert.equal(bad.requests.length, 1);
  });

  test('what one upstream refuses goes to another', async () => {
    await using good = await listen((_, res) => json(res, 200, { good: true }));
    await using bad = await listen((_, res) => json(res, 429, {}));
    const executor = openAiExecutor({ upstreams: [{ url: bad.url }, { url: good.url }] });
    assert.deepEqual(answered(await work(executor)).body, { good: true });
    assert.equal(bad.requests.length, 1);
    const away = openAiExecutor({ upstreams: [{ url: NOWHERE }, { url: good.url }] });
    assert.deepEqual(answered(await work(away)).body, { good: true });
  });

  test('what one upstream fails comes back at once, and then goes to another', async () => {
    await using good = await listen((_, res) => json(res, 200, { good: true }));
    await using bad = await listen((_, res) => json(res, 500, {}));
    const executor = openAiExecutor({ upstreams: [{ url: bad.url }, { url: good.url }] });
    const task = { task_id: 'TASK-once' };
    assert.equal(givenBack(await work(executor, recorded(task))).delay_seconds, 0);
    assert.deepEqual(answered(await work(executor, recorded(task))).body, { good: true });
    assert.equal(bad.requests.length, 1);
  });

  test('what one refuses is not pressed on another that has no room', async () => {
    const held: (() => void)[] = [];
    await using full = await listen((_, res) => void held.push(() => json(res, 200, {})));
    await using busy = await listen((_, res) => json(res, 429, {}));
    const executor = openAiExecutor({
      upstreams: [
        { url: full.url, concurrency: 1 },
        { url: busy.url, concurrency: 9 },
      ],
    });
    const first = work(executor);
    await until(() => held.length === 1);
    assert.equal((await work(executor)).later?.begun, false);
    assert.equal(full.requests.length, 1);
    held[0]?.();
    await first;
  });

  test('an idle connection that the server has closed is no failure', async () => {
    // A server that closes as it gets the second request can't be told from one that had closed before.
    await using server = await listen((_, res, count) => (count === 2 ? res.destroy() : json(res, 200, { count })));
    const executor = openAiExecutor({ upstreams: [{ url: server.url }] });
    assert.deepEqual(answered(await work(executor)).body, { count: 1 });
    assert.deepEqual(answered(await work(executor)).body, { count: 3 });
  });
});

describe('several upstreams', { concurrency: true }, () => {
  const holding = async () => {
    const held: (() => void)[] = [];
    const server = await listen((_, res) => void held.push(() => json(res, 200, {})));
    return { ...server, held, [Symbol.asyncDispose]: () => server.close() };
  };

  test('each task goes to the one with the least load, by its own limit', async () => {
    await using small = await holding();
    await using large = await holding();
    const executor = openAiExecutor({
      upstreams: [{ url: small.url, concurrency: 2 }, { url: large.url }],
      concurrency: 6,
    });
    assert.equal(executor.remainingCapacity?.('chat'), 8);
    const tasks = Array.from({ length: 8 }, () => work(executor));
    assert.equal(executor.remainingCapacity?.('chat'), 0);
    await until(() => small.held.length + large.held.length === 8);
    assert.deepEqual([small.held.length, large.held.length], [2, 6]);
    for (const answer of [...small.held, ...large.held]) answer();
    await Promise.all(tasks);
    assert.equal(executor.remainingCapacity?.('chat'), 8);
  });

  test('an upstream gets the tasks of its queues only, and queues with the same upstreams are a group', async () => {
    await using one = await listen((_, res) => json(res, 200, { one: true }));
    await using other = await listen((_, res) => json(res, 200, { other: true }));
    const lines: string[] = [];
    const executor = openAiExecutor({
      upstreams: [
        { url: one.url, queues: ['a', 'b'] },
        { url: other.url, queues: ['c'] },
      ],
      concurrency: 3,
      log: (line) => lines.push(line),
    });
    assert.deepEqual(answered(await work(executor, recorded({ queue: 'b' }))).body, { one: true });
    assert.deepEqual(answered(await work(executor, recorded({ queue: 'c' }))).body, { other: true });
    assert.equal(executor.groupOf?.('a'), executor.groupOf?.('b'));
    assert.notEqual(executor.groupOf?.('a'), executor.groupOf?.('c'));
    assert.equal(executor.remainingCapacity?.('d'), 0);
    assert.deepEqual(lines, ['no upstream serves the queue d: its tasks wait']);
    assert.equal((await work(executor, recorded({ queue: 'd' }))).later?.begun, false);
  });

  test('its key and headers go with every call', async () => {
    await using server = await listen((_, res) => json(res, 200, {}));
    const upstream = { url: server.url, apiKey: 'sk-up', headers: { 'x-team': 'blue' } };
    await work(openAiExecutor({ upstreams: [upstream] }));
    assert.equal(server.requests[0]?.headers.authorization, 'Bearer sk-up');
    assert.equal(server.requests[0]?.headers['x-team'], 'blue');
  });

  test('hundreds of calls run at once', async () => {
    await using server = await holding();
    const executor = openAiExecutor({ upstreams: [{ url: server.url, concurrency: 400 }] });
    const tasks = Array.from({ length: 400 }, () => work(executor));
    await until(() => server.held.length === 400);
    for (const answer of server.held) answer();
    assert.ok((await Promise.all(tasks)).every(({ answer }) => answer?.status_code === 200));
  });

  test('a task that is taken away ends its call, and is left alone', async () => {
    const held: (() => void)[] = [];
    await using server = await listen((_, res, count) => {
      if (count === 2) res.writeHead(200).write('{');
      held.push(() => res.end());
      res.on('close', () => closed++);
    });
    let closed = 0;
    const executor = openAiExecutor({ upstreams: [{ url: server.url, concurrency: 1 }] });
    for (const count of [1, 2]) {
      const task = recorded();
      const end = work(executor, task);
      await until(() => held.length === count);
      task.cancel();
      assert.deepEqual(await end, {});
      assert.deepEqual(getEventListeners(task.signal, 'abort'), []);
      await until(() => closed === count);
      assert.equal(executor.remainingCapacity?.('chat'), 1);
    }
  });
});

describe('the breaker', { concurrency: true }, () => {
  test('opens after 5 tasks in a row failed, lets one task through when the server answers a look, and closes when that went well', async () => {
    let isUp = false;
    const held: (() => void)[] = [];
    await using server = await listen(({ url }, res) => {
      if (url === '/v1/models') return json(res, isUp ? 200 : 500, {});
      if (!isUp) return json(res, 500, {});
      held.push(() => json(res, 200, {}));
    });
    const lines: string[] = [];
    const executor = openAiExecutor({
      upstreams: [{ url: server.url }],
      concurrency: 10,
      healthSeconds: 0.02,
      log: (line) => lines.push(line),
    });
    for (let n = 0; n < 4; n++) assert.equal((await work(executor)).later?.begun, undefined);
    assert.equal(executor.remainingCapacity?.('chat'), 10);
    assert.equal((await work(executor)).later?.begun, false, 'it failed with the server');
    assert.equal(executor.remainingCapacity?.('chat'), 0);

    const before = server.requests.length;
    assert.equal((await work(executor)).later?.begun, false);
    await until(() => server.requests.length > before + 1);
    assert.ok(server.requests.slice(before).every(({ method, url }) => method === 'GET' && url === '/v1/models'));
    assert.equal(executor.remainingCapacity?.('chat'), 0);

    isUp = true;
    await until(() => executor.remainingCapacity?.('chat') === 1);
    const probe = work(executor);
    assert.equal(executor.remainingCapacity?.('chat'), 0, 'one at a time');
    await until(() => held.length === 1);
    held[0]?.();
    assert.equal((await probe).answer?.status_code, 200);
    assert.equal(executor.remainingCapacity?.('chat'), 10);
    const { host } = new URL(server.url);
    const words = 'the model server answered 500: {}';
    assert.deepEqual(lines, [
      `${host} failed a call: ${words}`,
      `${host} is not used for now: 5 tasks in a row failed; ${words}`,
      `${host} is used again: a call went well`,
    ]);
    await executor.close?.();
  });

  test('stays closed for a task that fails wherever it goes, and for answers that are none', async () => {
    await using server = await listen(({ url }, res, count) =>
      url === '/v1/models' ? json(res, 200, {}) : count > 5 ? res.end('<html>') : json(res, 500, {}),
    );
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], concurrency: 10 });
    for (let n = 0; n < 5; n++) await work(executor, recorded({ task_id: 'TASK-bad' }));
    for (let n = 0; n < 6; n++) assert.match((await work(executor)).later?.reason ?? '', /not JSON/);
    assert.equal(executor.remainingCapacity?.('chat'), 10);
    await executor.close?.();
  });

  test('does not care how calls end that began before it opened', async () => {
    const held: (() => void)[] = [];
    await using server = await listen(({ method }, res, count) => {
      if (method === 'GET') return json(res, 200, {});
      if (count <= 6) return held.push(() => json(res, 500, {}));
      return json(res, count <= 11 ? 500 : 200, {});
    });
    const executor = openAiExecutor({
      upstreams: [{ url: server.url }],
      concurrency: 20,
      healthSeconds: 0.02,
    });
    const early = Array.from({ length: 6 }, () => work(executor));
    await until(() => held.length === 6);
    for (let n = 0; n < 5; n++) await work(executor);
    await until(() => executor.remainingCapacity?.('chat') === 1);
    assert.equal((await work(executor)).answer?.status_code, 200);
    for (const answer of held) answer();
    await Promise.all(early);
    assert.equal(executor.remainingCapacity?.('chat'), 20);
    await executor.close?.();
  });

  test('opens again when the first task fails, whose attempt counts', async () => {
    await using server = await listen(({ method }, res) => json(res, method === 'GET' ? 404 : 500, {}));
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], healthSeconds: 0.02 });
    for (let n = 0; n < 5; n++) await work(executor);
    assert.equal(executor.remainingCapacity?.('chat'), 0);
    await until(() => executor.remainingCapacity?.('chat') === 1);
    const { reason, begun } = givenBack(await work(executor));
    assert.deepEqual([reason, begun], ['the model server answered 500: {}', undefined]);
    assert.equal(executor.remainingCapacity?.('chat'), 0);
    await executor.close?.();
  });

  test('stays closed beside tasks that go well, though several in a row fail', async () => {
    await using server = await listen(({ body }, res) => json(res, body.includes('image') ? 500 : 200, {}));
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], concurrency: 3 });
    await work(executor);
    for (let n = 0; n < 12; n++) await work(executor, recorded({ data: { image: true } }));
    assert.equal(executor.remainingCapacity?.('chat'), 3);
    assert.equal((await work(executor)).answer?.status_code, 200);
  });

  test('lets another call join a first one that says nothing, and tells of the room', async () => {
    let isUp = false;
    await using server = await listen(({ method }, res) => {
      if (method === 'GET') return json(res, 200, {});
      if (!isUp) json(res, 500, {});
    });
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], concurrency: 9 });
    const told: number[] = [];
    executor.onChange?.(() => told.push(executor.remainingCapacity?.('chat') as number));
    for (let n = 0; n < 5; n++) await work(executor);
    isUp = true;
    await until(() => told.at(-1) === 1);
    told.length = 0;
    const silent = recorded();
    const end = work(executor, silent);
    assert.equal(executor.remainingCapacity?.('chat'), 0);
    await until(() => told.at(-1) === 1);
    silent.cancel();
    await end;
    await executor.close?.();
  });

  test('a connection that breaks is the end of the server where that answers no look, and else counts as an attempt', async () => {
    let looks = 200;
    await using server = await listen(({ method }, res) => (method === 'GET' ? json(res, looks, {}) : res.destroy()));
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], concurrency: 3 });
    assert.equal(givenBack(await work(executor)).begun, undefined);
    looks = 500;
    assert.equal(givenBack(await work(executor)).begun, false);
    assert.equal(executor.remainingCapacity?.('chat'), 0);
    await executor.close?.();
  });

  test('a task that a server goes away with is free once, and counts the second time', async () => {
    let looks = 500;
    await using server = await listen(({ method, body }, res) => {
      if (method === 'GET') return json(res, looks, {});
      return body.includes('deadly') ? res.destroy() : json(res, 200, {});
    });
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], concurrency: 3 });
    const die = () => work(executor, recorded({ task_id: 'TASK-deadly', data: { deadly: true } }));
    assert.equal(givenBack(await die()).begun, false);
    looks = 200;
    await until(() => executor.remainingCapacity?.('chat') === 1);
    await work(executor);
    looks = 500;
    assert.equal(givenBack(await die()).begun, undefined);
    await executor.close?.();
  });

  test('reports how each upstream is, since when, and what it said', async () => {
    let status = 200;
    await using server = await listen((_, res) => json(res, status, { error: { message: 'CUDA out of memory' } }));
    const executor = openAiExecutor({ upstreams: [{ url: server.url, queues: ['chat'] }], concurrency: 7 });
    const report = () => executor.upstreams?.()[0];
    const idle = {
      url: `${server.url}/`,
      state: 'healthy',
      since: report()?.since,
      in_flight: 0,
      limit: 7,
      queues: ['chat'],
    };
    assert.deepEqual(report(), idle);
    status = 429;
    await work(executor);
    const message = (code: number) => `the model server answered ${code}: CUDA out of memory`;
    assert.equal(report()?.state, 'healthy', 'a refusal among answers is no state');
    await until(() => report()?.state === 'refusing');
    assert.partialDeepStrictEqual(report(), { status: 429, message: message(429) });
    status = 500;
    await work(executor);
    await work(executor);
    assert.partialDeepStrictEqual(report(), { state: 'failing', status: 500, message: message(500) });
    status = 200;
    await work(executor);
    assert.equal(report()?.state, 'healthy');
    await server.close();
    await work(executor);
    assert.partialDeepStrictEqual(report(), { state: 'away', status: 502 });
    assert.match(report()?.message ?? '', /^no connection/);
    await executor.close?.();
  });

  test('stays closed however often the server says 429, and while failures are not in a row', async () => {
    await using server = await listen((_, res, count) => json(res, count <= 8 ? 429 : count % 4 === 0 ? 200 : 500, {}));
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], concurrency: 3 });
    for (let n = 0; n < 24; n++) await work(executor);
    // A place that was refused rests a little.
    await until(() => executor.remainingCapacity?.('chat') === 3);
  });

  test('opens by refused connections, and the tasks of a server that dies count no attempt', async () => {
    await using server = await listen(() => undefined);
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], healthSeconds: 0.02 });
    const tasks = Array.from({ length: 8 }, () => work(executor));
    await until(() => server.requests.length === 8);
    await server.close();
    for (const { later } of await Promise.all(tasks)) assert.equal(later?.begun, false);
    assert.equal(executor.remainingCapacity?.('chat'), 0);

    await using again = await listen((_, res) => json(res, 200, {}), server.port);
    await until(() => executor.remainingCapacity?.('chat') === 1);
    assert.equal((await work(executor)).answer?.status_code, 200);
    assert.ok(again.requests.length >= 2);
    await executor.close?.();
  });

  test('without a look, time alone lets a task through', async () => {
    const executor = httpExecutor({ upstreams: [{ url: NOWHERE }], concurrency: 100, healthSeconds: 0.02 });
    for (let n = 0; n < 5; n++) await work(executor);
    assert.equal(executor.remainingCapacity?.('chat'), 0);
    await until(() => executor.remainingCapacity?.('chat') === 1);
    await executor.close?.();
  });

  test('check opens it where nobody answers, and rejects a key that the server does not know', async () => {
    const executor = openAiExecutor({ upstreams: [{ url: NOWHERE }] });
    await executor.check?.();
    assert.equal(executor.remainingCapacity?.('chat'), 0);
    await executor.close?.();
    await using locked = await listen((_, res) => json(res, 401, {}));
    const stranger = openAiExecutor({ upstreams: [{ url: locked.url, apiKey: 'sk-wrong' }] });
    await assert.rejects(async () => stranger.check?.(), /answers 401 to \/v1\/models: it does not know the apiKey/);
  });
});

test('options that cannot be are refused in words', () => {
  const url = 'http://127.0.0.1:1';
  const wrong: [object, RegExp][] = [
    [{}, /upstreams: name at least one/],
    [{ upstreams: [] }, /upstreams: name at least one/],
    [{ upstreams: [{ url: 'ftp://x' }] }, /"ftp:\/\/x" is no http:\/\/ or https:\/\/ URL/],
    [{ upstreams: [{ url: 'gpu-1:8000' }] }, /is no http/],
    [{ upstreams: [{ url, concurrency: 0 }] }, /concurrency/],
    [{ upstreams: [{ url, apikey: 'x' }] }, /upstreams: unknown option apikey; did you mean apiKey/],
    [{ upstreams: [{ url }], concurency: 2 }, /openai: unknown option concurency; did you mean concurrency/],
    [{ upstreams: [{ url }], timeoutSeconds: 0 }, /timeoutSeconds: 0 is not a number of seconds/],
    [{ upstreams: [{ url }], healthSeconds: -1 }, /healthSeconds/],
    [{ upstreams: [{ url }], retries: 2 }, /unknown option retries/],
  ];
  // biome-ignore lint/suspicious/noExplicitAny: what TypeScript would refuse
  for (const [options, message] of wrong) assert.throws(() => openAiExecutor(options as any), message);
});
