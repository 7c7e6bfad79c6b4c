import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { ADMIN_KEY, until } from '../support/server.ts';
import { assertRefused, CHAT, fixture } from './fixture.ts';

const f = fixture();

const blocking = (queue: string, more: object = {}) => f.tryPut({ queue, response_mode: 'blocking', ...more });

describe('a blocking put', { concurrency: true }, () => {
  test("answers with the worker's status and body, to the letter, and the task's id", async () => {
    const queue = await f.queue();
    for (const [status, body] of [
      [200, '{"x": 1.0, "y":[1e3]}'],
      [201, 'null'],
      [418, '"text"'],
      [500, '{"error":{"code":"x"}}'],
    ] as const) {
      const answer = blocking(queue);
      const { task_id, response_mode, instance_id } = await f.takeOne(`${queue}:0`);
      assert.deepEqual([response_mode, instance_id], ['blocking', f.server.instance]);
      await f.worker('POST', `/v1/queue/${task_id}/complete`, `{"status_code":${status},"body":${body}}`);
      const { status: told, headers, text: said } = await answer;
      assert.deepEqual([told, said], [status, body]);
      assert.equal(headers.get('x-task-id'), task_id);
      assert.match(headers.get('content-type') ?? '', /^application\/json/);
      assert.equal(await f.status(task_id), status < 300 ? 'succeeded' : 'failed');
    }
  });

  for (const status of [204, 205, 304]) {
    test(`answers ${status} without a body, and announces none`, async () => {
      const queue = await f.queue();
      const body = JSON.stringify({ queue, endpoint: CHAT, data: {}, response_mode: 'blocking' });
      const socket = connect(Number(new URL(f.server.url).port), '127.0.0.1');
      socket.write(
        `POST /v1/queue/put HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer ${f.keys.client}\r\n` +
          `Content-Length: ${body.length}\r\n\r\n${body}`,
      );
      await f.complete((await f.takeOne(`${queue}:0`)).task_id, { text: 'x' }, { status_code: status });
      const answer = await text(socket);
      assert.ok(answer.startsWith(`HTTP/1.1 ${status} `), answer);
      assert.match(answer, /^X-TASK-ID: TASK-/im);
      assert.doesNotMatch(answer, /^Content-Length: [1-9]/im);
      assert.ok(answer.endsWith('\r\n\r\n') && !answer.includes('"text"'), answer);
    });
  }

  test('is answered 408 past its timeout, and its task has expired, waiting or running', async () => {
    const [waiting, running] = [await f.queue(), await f.queue()];
    const answers = Promise.all([blocking(waiting, { timeout: 1 }), blocking(running, { timeout: 1 })]);
    const { task_id } = await f.takeOne(`${running}:0`);
    for (const answer of await answers) {
      assertRefused(answer, 408, /deadline/);
      assert.equal(await f.status(answer.headers.get('x-task-id') as string), 'expired');
    }
    assertRefused(await f.complete(task_id), 409, /expired/);
    assert.deepEqual(await f.take(`${waiting}:0`), []);
  });

  test('is answered 499 in the envelope when its task is cancelled', async () => {
    const queue = await f.queue();
    const answer = blocking(queue);
    const { task_id } = await f.takeOne(`${queue}:0`);
    assert.equal((await f.client('POST', `/v1/queue/${task_id}/cancel`)).status, 202);
    assertRefused(await answer, 499, /cancelled/);
    assert.equal((await answer).headers.get('x-task-id'), task_id);
  });

  test('is answered 499 when its lane is cleared', async () => {
    const queue = await f.queue();
    const answer = blocking(queue);
    await until(async () => (await f.worker('GET', `/v1/queue/${queue}:0/backlog`)).json === 1);
    assert.deepEqual((await f.admin('POST', `/v1/console/${queue}:0/clear`)).json, { cancelled: 1 });
    assertRefused(await answer, 499, /cancelled/);
  });

  test('cancels its task when the client hangs up, waiting or running', async () => {
    const queue = await f.queue();
    const hangUp = new AbortController();
    const gone = [0, 1].map(() =>
      f.client(
        'POST',
        '/v1/queue/put',
        { queue, endpoint: CHAT, data: {}, response_mode: 'blocking' },
        { signal: hangUp.signal },
      ),
    );
    const { task_id } = await f.takeOne(`${queue}:0`);
    await until(async () => (await f.worker('GET', `/v1/queue/${queue}:0/stats`)).json.total_put_cnt === 2);
    hangUp.abort();
    await Promise.allSettled(gone);
    await until(async () => {
      const { json } = await f.client('GET', `/v1/tasks?queue=${queue}&status=cancelled`);
      return json.data.length === 2;
    });
    assertRefused(await f.complete(task_id), 409, /cancelled/);
  });

  test('cancels its task when the client is gone before the task is stored', async () => {
    const queue = await f.queue();
    const body = JSON.stringify({ queue, endpoint: CHAT, data: {}, response_mode: 'blocking', timeout: 600 });
    const sockets = Array.from({ length: 10 }, () => connect(Number(new URL(f.server.url).port), '127.0.0.1'));
    await Promise.all(
      sockets.map(async (socket) => {
        await once(socket, 'connect');
        // The admin's, which no look-up keeps from being read before the client is gone.
        const head = `POST /v1/queue/put HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ADMIN_KEY}\r\n`;
        socket.write(`${head}Content-Length: ${body.length}\r\n\r\n${body}`, () => socket.destroy());
        await once(socket, 'close');
      }),
    );
    await until(async () => {
      const { json } = await f.worker('GET', `/v1/queue/${queue}:0/stats`);
      return json.total_put_cnt === 10 && json.total_completed_cnt === 10;
    });
    const { json } = await f.admin('GET', `/v1/tasks?queue=${queue}&status=cancelled`);
    assert.equal(json.data.length, 10);
  });

  test('answers each of 200 clients that wait at once with its own answer', async () => {
    const queue = await f.queue();
    const answers = Promise.all(Array.from({ length: 200 }, (_, n) => blocking(queue, { data: { n } })));
    for (let done = 0; done < 200; ) {
      const tasks = await f.take(`${queue}:0`, { size: 100, wait: 10 });
      await Promise.all(tasks.map((task) => f.complete(task.task_id, { n: task.data.n })));
      done += tasks.length;
    }
    for (const [n, answer] of (await answers).entries()) assert.deepEqual(answer.json, { n });
  });
});
