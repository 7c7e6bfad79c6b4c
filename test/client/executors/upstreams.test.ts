import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { httpExecutor } from '../../../client/executors/http.ts';
import { openAiExecutor } from '../../../client/executors/openai.ts';
import { JsonText } from '../../../client/worker/executor.ts';
import { answered, json, listen, recorded, work } from './support.ts';

/** Nobody listens there. */
const NOWHERE = 'http://127.0.0.1:9';
const until = async (is: () => boolean) => {
  while (!is()) await sleep(5);
};

describe('what a reply means', { concurrency: true }, () => {
  const answering = async (status: number, body: unknown, headers = {}) => {
    const server = await listen((_, res) => json(res, status, body, headers));
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], retries: 0 });
    return { server, executor, [Symbol.asyncDispose]: () => server.close() };
  };

  test('a 2xx with JSON is the answer, to the letter, with the status and the request id', async () => {
    await using one = await answering(201, '{"n": 1.0}', { 'x-request-id': 'r'.repeat(300) });
    const { answer } = await work(one.executor);
    assert.deepEqual(answer, { status_code: 201, body: new JsonText('{"n": 1.0}'), request_id: 'r'.repeat(256) });
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
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], retries: 0 });
    await work(executor);
    for (let n = 0; n < 5; n++) assert.ok(((await work(executor)).later?.delay_seconds as number) <= 1);
  });

  test('what fails gives the task back, and the attempt counts', async () => {
    for (const [status, body, reason] of [
      [500, { error: { message: 'no memory' } }, 'the model server answered 500: no memory'],
      [408, 'slow', 'the model server answered 408: slow'],
      [200, '<h1>', "the model server's answer is not JSON: <h1>"],
    ] as const) {
      await using one = await answering(status, body);
      assert.deepEqual((await work(one.executor)).later, { reason });
    }
  });

  test('a connection that breaks in the middle of an answer is a failure', async () => {
    await using server = await listen((_, res) => {
      res.writeHead(200, { 'Content-Length': 100 });
      res.write('{"a":', () => res.destroy());
    });
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], retries: 0 });
    const { later } = await work(executor);
    assert.match(later?.reason as string, /^the connection to the model server broke/);
    assert.equal(later?.begun, undefined);
  });

  test('a call that takes longer than timeoutSeconds is a failure', async () => {
    await using silent = await listen(() => undefined);
    await using halting = await listen((_, res) => void res.writeHead(200).write('{'));
    for (const { url } of [silent, halting]) {
      const executor = openAiExecutor({ upstreams: [{ url }], timeoutSeconds: 0.05, retries: 0 });
      assert.deepEqual((await work(executor)).later, { reason: 'no answer within 0.05 seconds' });
    }
  });

  test('a refused connection, or a name that nobody has, gives the task back without an attempt', async () => {
    for (const url of [NOWHERE, 'http://nobody.invalid']) {
      const { later } = await work(openAiExecutor({ upstreams: [{ url }] }));
      assert.equal(later?.begun, false);
      assert.match(later?.reason as string, /^no connection to the model server/);
    }
  });
});

describe('trying again', { concurrency: true }, () => {
  test('a call that failed is tried again, as often as retries says', async () => {
    await using server = await listen((_, res, count) => json(res, count < 3 ? 500 : 200, { count }));
    assert.deepEqual(answered(await work(openAiExecutor({ upstreams: [{ url: server.url }] }))), {
      status: 200,
      body: { count: 3 },
    });
    await using broken = await listen((_, res) => json(res, 502, {}));
    assert.equal('later' in (await work(openAiExecutor({ upstreams: [{ url: broken.url }], retries: 1 }))), true);
    assert.equal(broken.requests.length, 2);
  });

  test('a task keeps its place in the pause before that', async () => {
    await using server = await listen((_, res, count) => json(res, count === 1 ? 500 : 200, {}));
    const executor = openAiExecutor({ upstreams: [{ url: server.url, concurrency: 1 }] });
    let isOver = false;
    const end = work(executor).finally(() => {
      isOver = true;
    });
    await until(() => isOver || executor.remainingCapacity?.('chat') !== 0);
    assert.ok(isOver);
    assert.equal((await end).answer?.status_code, 200);
  });

  test('a task that is taken away in the pause before that is left alone', async () => {
    let closed = false;
    await using server = await listen((_, res) => {
      res.socket?.on('close', () => {
        closed = true;
      });
      json(res, 500, {}, { connection: 'close' });
    });
    const task = recorded();
    const executor = openAiExecutor({ upstreams: [{ url: server.url, concurrency: 2 }] });
    const end = work(executor, task);
    await until(() => closed);
    task.cancel();
    assert.deepEqual(await end, {});
    assert.equal(server.requests.length, 1);
    assert.deepEqual(getEventListeners(task.signal, 'abort'), []);
  });

  test('what one upstream refuses or fails goes to another, and the one is not asked again', async () => {
    await using good = await listen((_, res) => json(res, 200, { good: true }));
    for (const status of [429, 500]) {
      await using bad = await listen((_, res) => json(res, status, {}));
      const executor = openAiExecutor({ upstreams: [{ url: bad.url }, { url: good.url }] });
      assert.deepEqual(answered(await work(executor)).body, { good: true });
      assert.equal(bad.requests.length, 1);
    }
    const away = openAiExecutor({ upstreams: [{ url: NOWHERE }, { url: good.url }] });
    assert.deepEqual(answered(await work(away)).body, { good: true });
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
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], retries: 0 });
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
      retries: 0,
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
    assert.deepEqual(lines, [
      `${host} is not used for now: 5 tasks in a row failed`,
      `${host} is used again: a call went well`,
    ]);
    await executor.close?.();
  });

  test('stays closed for a task that fails wherever it goes, and for answers that are none', async () => {
    await using server = await listen(({ url }, res, count) =>
      url === '/v1/models' ? json(res, 200, {}) : count > 15 ? res.end('<html>') : json(res, 500, {}),
    );
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], concurrency: 10, retries: 2 });
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
      retries: 0,
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
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], retries: 0, healthSeconds: 0.02 });
    for (let n = 0; n < 5; n++) await work(executor);
    assert.equal(executor.remainingCapacity?.('chat'), 0);
    await until(() => executor.remainingCapacity?.('chat') === 1);
    assert.deepEqual((await work(executor)).later, { reason: 'the model server answered 500: {}' });
    assert.equal(executor.remainingCapacity?.('chat'), 0);
    await executor.close?.();
  });

  test('stays closed however often the server says 429, and while failures are not in a row', async () => {
    await using server = await listen((_, res, count) => json(res, count <= 8 ? 429 : count % 4 === 0 ? 200 : 500, {}));
    const executor = openAiExecutor({ upstreams: [{ url: server.url }], concurrency: 3, retries: 0 });
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
    [{ upstreams: [{ url }], retries: 1.5 }, /retries: 1.5 is not an integer/],
  ];
  // biome-ignore lint/suspicious/noExplicitAny: what TypeScript would refuse
  for (const [options, message] of wrong) assert.throws(() => openAiExecutor(options as any), message);
});
