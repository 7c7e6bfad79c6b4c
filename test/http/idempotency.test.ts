import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { createRecorder } from '../support/feed.ts';
import { type Json, openStream, startServer, until } from '../support/server.ts';
import { assertRefused, CHAT, fixture } from './fixture.ts';

const f = fixture();
const psql = createRecorder(() => f.server.databaseUrl);
after(psql.close);
let keys = 0;
const newKey = () => `key ${++keys}`;
const put = (body: object, key?: string, by = f.client) =>
  by(
    'POST',
    '/v1/queue/put',
    { endpoint: CHAT, data: {}, ...body },
    key === undefined ? {} : { headers: { 'Idempotency-Key': key } },
  );

describe('a put that is repeated under its key', () => {
  for (const how of ['the header', 'the field'])
    test(`by ${how} is the task that was put first, while it waits, runs and when it has ended`, async () => {
      const queue = await f.queue();
      const key = newKey();
      const ask = async () => {
        const answer = await (how === 'the header' ? put({ queue }, key) : put({ queue, idempotency_key: key }));
        assert.equal(answer.status, 200, answer.text);
        return answer.json.data;
      };
      const id = await ask();
      assert.equal(await ask(), id);
      await f.takeOne(`${queue}:0`);
      assert.equal(await ask(), id);
      await f.complete(id);
      assert.equal(await ask(), id);
      assert.deepEqual(await f.take(`${queue}:0`), []);
    });

  test('may be written with other white space and its fields in another order, and its values to the letter', async () => {
    const queue = await f.queue();
    const key = newKey();
    const text = (data: string) => `{"queue":"${queue}","endpoint":"${CHAT}","data":${data}}`;
    const send = (body: string) => f.client('POST', '/v1/queue/put', body, { headers: { 'Idempotency-Key': key } });
    const first = await send(text('{"n":12345678901234567890}'));
    assert.equal((await send(text('{ "n":\n12345678901234567890 }'))).json.data, first.json.data);
    for (const data of [
      '{"n":12345678901234567891}',
      '{"n":"12345678901234567890"}',
      '{"n":12345678901234567890,"m":1}',
    ]) {
      const other = await send(text(data));
      assertRefused(other, 409);
      assert.ok(other.json.message.includes(first.json.data), other.text);
    }
  });

  test('of another tenant is another task', async () => {
    const queue = await f.queue();
    const key = newKey();
    const [own, foreign] = [await put({ queue }, key), await put({ queue, data: { other: true } }, key, f.other)];
    assert.deepEqual([own.status, foreign.status], [200, 200]);
    assert.notEqual(own.json.data, foreign.json.data);
  });

  test('keeps to its key in the body when the header has another one', async () => {
    const queue = await f.queue();
    const key = newKey();
    const first = await put({ queue, idempotency_key: key }, newKey());
    assert.equal((await put({ queue, idempotency_key: key }, newKey())).json.data, first.json.data);
  });

  test('was refused the first time, and its key is free', async () => {
    const queue = await f.queue();
    const key = newKey();
    assertRefused(await put({ queue: 'nowhere' }, key), 404);
    assertRefused(await put({ queue, run_at: '2999-01-01T00:00:00Z' }, key), 400, /run_at/);
    assert.equal((await put({ queue }, key)).status, 200);
  });

  test('gets the answer that a blocking task had, whatever it was', async () => {
    const queue = await f.queue();
    for (const [status, body] of [
      [200, { ok: 1 }],
      [503, { error: 'busy' }],
    ] as const) {
      const key = newKey();
      const blocking = { queue, response_mode: 'blocking' };
      const first = put(blocking, key);
      const task = await f.takeOne(`${queue}:0`);
      const second = put(blocking, key);
      await f.worker('POST', `/v1/queue/${task.task_id}/complete`, { status_code: status, body });
      for (const answer of [await first, await second, await put(blocking, key)]) {
        assert.deepEqual([answer.status, answer.json], [status, body]);
        assert.equal(answer.headers.get('x-task-id'), task.task_id);
      }
    }
  });

  test('is told how a blocking task ended without an answer', async () => {
    const queue = await f.queue();
    const key = newKey();
    const blocking = { queue, response_mode: 'blocking', timeout: 1 };
    assertRefused(await put(blocking, key), 408);
    assertRefused(await put(blocking, key), 408);
  });

  test('reads all events of a streaming task, from the first to the end', async () => {
    const queue = await f.queue();
    const key = newKey();
    const body = { endpoint: CHAT, data: {}, queue, response_mode: 'streaming' };
    const open = () =>
      openStream(f.server, 'POST', '/v1/queue/put', body, { key: f.keys.client, headers: { 'Idempotency-Key': key } });
    const first = await open();
    const { task_id: id } = await f.takeOne(`${queue}:0`);
    await f.emit(id, 'chunk', 1);
    const second = await open();
    await f.emit(id, 'chunk', 2);
    await f.complete(id, 'done');
    const expected = ['chunk', 'chunk', 'completion'];
    for (const stream of [first, second, await open()]) {
      assert.equal(stream.headers.get('x-task-id'), id);
      assert.deepEqual(
        (await stream.rest()).map((event) => event.name),
        expected,
      );
    }
  });

  test('leaves a blocking task alone when one of those who wait for it hangs up', async () => {
    const queue = await f.queue();
    const key = newKey();
    const hung = new AbortController();
    const body = { endpoint: CHAT, data: {}, queue, response_mode: 'blocking' };
    const headers = { 'Idempotency-Key': key };
    const first = f.client('POST', '/v1/queue/put', body, { headers, signal: hung.signal });
    const { task_id: id } = await f.takeOne(`${queue}:0`);
    const second = f.client('POST', '/v1/queue/put', body, { headers });
    hung.abort();
    await assert.rejects(first);
    await f.complete(id, 'for the other');
    assert.equal((await second).text, '"for the other"');
  });

  test('is a 404 when its task has been removed, unless all it wants is the id', async () => {
    const queue = await f.queue();
    const [key, blockingKey] = [newKey(), newKey()];
    const { data: id } = (await put({ queue }, key)).json;
    await f.takeOne(`${queue}:0`);
    await f.complete(id);
    const blocking = { queue, response_mode: 'blocking' };
    const asked = put(blocking, blockingKey);
    const { task_id: blockingId } = await f.takeOne(`${queue}:0`);
    await f.complete(blockingId);
    assert.equal((await asked).status, 200);
    for (const gone of [id, blockingId])
      await psql.query('select tasklane.remove_tasks(array[tasklane.parse_task_id($1)])', [gone]);
    assert.equal((await put({ queue }, key)).json.data, id);
    assertRefused(await put(blocking, blockingKey), 404);
  });
});

describe('puts under a key', () => {
  const puts = (tasks: Json[], key?: string) =>
    f.client('POST', '/v1/queue/puts', { tasks }, key === undefined ? {} : { headers: { 'Idempotency-Key': key } });

  test('by the header are repeated as a whole, and another list is a conflict', async () => {
    const queue = await f.queue();
    const key = newKey();
    const tasks = [1, 2, 3].map((n) => ({ queue, endpoint: CHAT, data: { n } }));
    const first = await puts(tasks, key);
    assert.equal(new Set(first.json.data).size, 3);
    assert.deepEqual((await puts(tasks, key)).json.data, first.json.data);
    assertRefused(await puts(tasks.slice(0, 2), key), 409);
    assertRefused(await puts([...tasks, { queue, endpoint: CHAT, data: {} }], key), 409);
    assert.equal((await f.take(`${queue}:0`, { size: 10 })).length, 3);
  });

  test('by the field have one each: what was put before is repeated, the rest is put', async () => {
    const queue = await f.queue();
    const [a, b] = [newKey(), newKey()];
    const task = (key: string) => ({ queue, endpoint: CHAT, data: {}, idempotency_key: key });
    const { data: id } = (await put(task(a))).json;
    const answer = await puts([task(a), task(b), task(b)]);
    assert.equal(answer.status, 200, answer.text);
    assert.equal(answer.json.data[0], id);
    assert.equal(answer.json.data[1], answer.json.data[2]);
    assert.equal((await f.take(`${queue}:0`, { size: 10 })).length, 2);
  });

  test('of which one conflicts put none', async () => {
    const queue = await f.queue();
    const [a, b] = [newKey(), newKey()];
    await put({ queue, idempotency_key: a });
    const conflicting = { queue, endpoint: CHAT, data: { other: true }, idempotency_key: a };
    assertRefused(
      await puts([{ queue, endpoint: CHAT, data: {}, idempotency_key: b }, conflicting]),
      409,
      /^tasks\.1: /,
    );
    assert.equal((await f.take(`${queue}:0`, { size: 10 })).length, 1);
    assert.equal((await put({ queue, data: { b: 1 }, idempotency_key: b })).status, 200);
  });
});

test('a key that can not be is refused by name', async () => {
  const queue = await f.queue();
  for (const [answer, path] of [
    [await put({ queue, idempotency_key: '' }), 'idempotency_key'],
    [await put({ queue, idempotency_key: 'x'.repeat(256) }), 'idempotency_key'],
    [await put({ queue, idempotency_key: 7 }), 'idempotency_key'],
    [await put({ queue }, 'x'.repeat(256)), 'Idempotency-Key'],
  ] as const)
    assertRefused(answer, 400, undefined, path);
});

test('a key is forgotten after TASKLANE_IDEMPOTENCY_SECONDS', async () => {
  const queue = await f.queue();
  const short = await startServer({ url: f.server.databaseUrl, env: { TASKLANE_IDEMPOTENCY_SECONDS: '1' } });
  try {
    const ask = (data: object) =>
      short.request(
        'POST',
        '/v1/queue/put',
        { queue, endpoint: CHAT, data },
        { headers: { 'Idempotency-Key': 'short' } },
      );
    const first = await ask({});
    const later = await until(async () => {
      const answer = await ask({ other: true });
      if (answer.status !== 200) assertRefused(answer, 409);
      return answer.status === 200 && answer;
    });
    assert.notEqual(later.json.data, first.json.data);
  } finally {
    await short.stop();
  }
});
