import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type Receiver, startReceiver } from '../callbacks/receiver.ts';
import type { Json } from '../support/server.ts';
import { assertRefused, CHAT, fixture } from './fixture.ts';

const f = fixture();

let receiver: Receiver;
before(async () => {
  receiver = await startReceiver();
});
after(() => receiver?.close());

/** To the letter: spaces, a long number, a key that comes twice. */
const BODY = '{"error": {"message":"CUDA \\u0000 out","n":12345678901234567890,"n":1.0}}';
const FAILED = (status = 500) => `{"status_code":${status},"request_id":"up-1","body":${BODY}}`;
const REFUSED = { status_code: 429, body: { error: { message: 'slow down' } } };

const release = (id: string, body: object | string) => f.worker('POST', `/v1/queue/${id}/release`, body);
const releaseWith = (id: string, answer: string, more = '"delay_seconds":0') =>
  release(id, `{${more},"reason":"it said 500","answer":${answer}}`);
const task = async (id: string): Promise<Json> => (await f.client('GET', `/v1/queue/${id}`)).json;
const attemptsOf = async (id: string): Promise<unknown[]> =>
  (await task(id)).attempts.map((one: Json) => [one.attempt, one.reason, one.refusals]);

describe('a release with the last answer', { concurrency: true }, () => {
  test('makes a task dead with it after the last attempt: in its reply, its stream, its callback and its result', async () => {
    const queue = await f.queue(CHAT, { max_attempts: 1 });
    const asked = f.tryPut({ queue, response_mode: 'blocking' });
    const { stream } = await f.stream(queue, { level: 1 });
    const called = await f.put(queue, { level: 2, callback_url: receiver.url() });
    for (const level of [0, 1, 2]) {
      const { task_id: id } = await f.takeOne(`${queue}:${level}`);
      assert.equal((await releaseWith(id, FAILED())).status, 200);
    }
    const reply = await asked;
    assert.deepEqual([reply.status, reply.text], [500, BODY]);
    const envelope = `{"status_code":500,"request_id":"up-1","body":${BODY}}`;
    const [event, ...none] = await stream.rest();
    assert.deepEqual([event?.name, event?.data, none], ['completion', envelope.replace(': {', ':{'), []]);
    const delivery = await receiver.next();
    delivery.answer(200);
    assert.equal(delivery.body, envelope.replace(': {', ':{'));
    const { text } = await f.client('GET', `/v1/queue/${called}`);
    assert.ok(text.endsWith(`"result":${envelope}}`), text);
    assert.equal(await f.status(called), 'dead');
    const { json } = await f.client('GET', `/v1/dead?queue=${queue}`);
    assert.deepEqual(
      json.data.map((one: Json) => one.result.status_code),
      [500, 500, 500],
    );
  });

  test('is told by another server, too', async () => {
    const queue = await f.queue(CHAT, { max_attempts: 1 });
    const second = await f.second();
    const asked = second.request(
      'POST',
      '/v1/queue/put',
      { queue, endpoint: CHAT, data: {}, response_mode: 'blocking' },
      { key: f.keys.client },
    );
    await releaseWith((await f.takeOne(`${queue}:0`)).task_id, FAILED(501));
    const reply = await asked;
    assert.deepEqual([reply.status, reply.text], [501, BODY]);
  });

  test('ends a live task whose client waits after live_attempts, unless it or its queue has fewer or it has its own', async () => {
    const tries = async (settings: object, more: object) => {
      const queue = await f.queue(CHAT, settings);
      const asked = f.tryPut({ queue, ...more });
      let tried = 0;
      for (let status = 'waiting'; status === 'waiting'; tried++) {
        const { task_id: id } = await f.takeOne(`${queue}:${Object(more).level ?? 0}`);
        await releaseWith(id, FAILED());
        status = await f.status(id);
      }
      await asked;
      return tried;
    };
    const live = { response_mode: 'blocking' };
    assert.equal(await tries({}, live), 2);
    assert.equal(await tries({ live_attempts: 4, max_attempts: 5 }, live), 4);
    assert.equal(await tries({ max_attempts: 1 }, live), 1);
    assert.equal(await tries({}, { ...live, max_attempts: 4 }), 4);
    assert.equal(await tries({}, { ...live, level: 1 }), 3);
    assert.equal(await tries({}, {}), 3);
  });

  test('a dead task with an answer can be replayed, and its next life ends as that goes', async () => {
    const queue = await f.queue(CHAT, { max_attempts: 1 });
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    await releaseWith(id, FAILED());
    assert.equal((await f.client('POST', `/v1/queue/${id}/replay`)).status, 200);
    await f.takeOne(`${queue}:0`);
    await f.complete(id, 'well');
    assert.deepEqual((await task(id)).result, { status_code: 200, request_id: id, body: 'well' });
  });

  test('stores what can not be stored as it is in another form, and cuts what is too long', async () => {
    const queue = await f.queue(CHAT, { max_attempts: 1 });
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    const answer = await release(id, {
      reason: `a\0b\ud83d${'x'.repeat(1000)}`,
      answer: { status_code: 502, request_id: 'r\0', body: 'a\0\ud83d', headers: { 'Retry-After': '7', cookie: 'no' } },
    });
    assert.equal(answer.status, 200, answer.text);
    const { result, attempts } = await task(id);
    assert.deepEqual([result.request_id, result.body], ['r\ufffd', 'a\0\ud83d']);
    assert.equal(attempts[0].reason, `a\ufffdb\ufffd${'x'.repeat(508)}`);
  });

  test('out of range is refused by field', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    for (const [answer, path] of [
      [1, 'answer'],
      [{ body: 1 }, 'answer.status_code'],
      [{ status_code: 200, body: 1 }, 'answer.status_code'],
      [{ status_code: 600, body: 1 }, 'answer.status_code'],
      [{ status_code: 500, request_id: 1 }, 'answer.request_id'],
      [{ status_code: 500, headers: [1] }, 'answer.headers'],
    ] as const)
      assertRefused(await release(id, { answer }), 400, undefined, path);
    assert.equal(await f.status(id), 'running');
  });
});

describe('refusals', { concurrency: true }, () => {
  const refuse = (id: string, more: object = {}) =>
    release(id, { begun: false, delay_seconds: 0, reason: '429: slow down', answer: REFUSED, ...more });

  test('spend no attempt, and are one row of the attempts with how often', async () => {
    const queue = await f.queue(CHAT, { max_attempts: 2, live_attempts: 2 });
    const id = await f.put(queue);
    for (const reason of ['first', 'second', 'third']) {
      assert.equal((await f.takeOne(`${queue}:0`)).attempt, 1);
      await refuse(id, { reason });
    }
    assert.deepEqual([(await task(id)).status, (await task(id)).attempt], ['waiting', 0]);
    assert.deepEqual(await attemptsOf(id), [[1, 'third', 3]]);
    await f.takeOne(`${queue}:0`);
    await release(id, { delay_seconds: 0, reason: 'failed' });
    await f.takeOne(`${queue}:0`);
    await refuse(id, { reason: 'again' });
    assert.deepEqual(await attemptsOf(id), [
      [1, 'third', 3],
      [1, 'failed', undefined],
      [2, 'again', 1],
    ]);
  });

  test('end a live task whose client waits with the last of them, when they last too long', async () => {
    const queue = await f.queue(CHAT, { live_refusal_seconds: 1 });
    const asked = f.tryPut({ queue, response_mode: 'blocking' });
    for (let tried = 0; tried < 2; tried++) {
      const { task_id: id } = await f.takeOne(`${queue}:0`, { wait: 30 });
      // It is not put off beyond its patience.
      await refuse(id, { delay_seconds: 3600 });
    }
    const reply = await asked;
    assert.deepEqual([reply.status, reply.json], [429, REFUSED.body]);
    const id = reply.headers.get('x-task-id') as string;
    assert.deepEqual(await attemptsOf(id), [[1, '429: slow down', 2]]);
    assert.equal(await f.status(id), 'dead');
  });

  test('end any other task by a bound of its own, and a new life has a new one', async () => {
    const queue = await f.queue(CHAT, { live_refusal_seconds: 0, refusal_seconds: 1 });
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    await refuse(id);
    assert.equal(await f.status(id), 'waiting');
    await f.worker('PATCH', `/v1/queue/${queue}`, { refusal_seconds: 0 });
    await f.takeOne(`${queue}:0`);
    await refuse(id);
    assert.equal(await f.status(id), 'dead');
    await f.worker('PATCH', `/v1/queue/${queue}`, { refusal_seconds: 3600 });
    await f.client('POST', `/v1/queue/${id}/replay`);
    await f.takeOne(`${queue}:0`);
    await refuse(id);
    assert.deepEqual(await attemptsOf(id), [
      [1, '429: slow down', 2],
      [1, '429: slow down', 1],
    ]);
  });
});
