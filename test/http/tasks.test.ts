import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Json } from '../support/server.ts';
import { assertRefused, CHAT, EMBED, fixture, NO_SUCH_TASK } from './fixture.ts';

const f = fixture();

describe('put', () => {
  test('answers a callback task with code, timestamp and the id', async () => {
    const queue = await f.queue();
    const before = Date.now();
    const answer = await f.tryPut({ queue, level: 7 });
    assert.equal(answer.status, 200);
    const { code, timestamp, data, ...rest } = answer.json;
    assert.equal(code, 200);
    assert.ok(timestamp >= before - 1000 && timestamp <= Date.now() + 1000);
    assert.match(data, /^TASK-\d+-7-C-\d{12}-\d{4}-\d{6}$/);
    assert.deepEqual(rest, {});
  });

  test('keeps every field that was put and tells it in the take and in the task', async () => {
    const queue = await f.queue();
    const put = {
      level: 4,
      data: { model: 'm', n: 1 },
      callback_url: 'http://127.0.0.1:9/back',
      trace_id: 'trace-1',
      timeout: 3600,
    };
    const id = await f.put(queue, put);
    const [taken] = await f.take(`${queue}:4`);
    const { start_time, expire_time, ak, ...rest } = taken;
    assert.deepEqual(rest, {
      task_id: id,
      endpoint: CHAT,
      queue,
      level: 4,
      status: 'waiting',
      attempt: 1,
      running_time: 0,
      completed_time: 0,
      callback_url: put.callback_url,
      response_mode: 'callback',
      trace_id: 'trace-1',
      data: put.data,
    });
    assert.ok(Math.abs(start_time - Date.now()) < 60_000);
    assert.equal(expire_time - start_time, 3_600_000);
    assert.match(ak, /^key-\d+$/);

    const running = (await f.client('GET', `/v1/queue/${id}`)).json;
    assert.equal(running.status, 'running');
    assert.ok(running.running_time >= start_time);
    assert.equal(running.completed_time, 0);
    assert.equal('result' in running, false);

    assert.equal((await f.complete(id, { ok: true }, { request_id: 'r-1' })).json, id);
    const done = (await f.client('GET', `/v1/queue/${id}`)).json;
    assert.equal(done.status, 'succeeded');
    assert.ok(done.completed_time >= done.running_time);
    assert.deepEqual(done.result, { status_code: 200, request_id: 'r-1', body: { ok: true } });
  });

  test('a callback task lives a day unless it says otherwise', async () => {
    const queue = await f.queue();
    await f.put(queue);
    const [task] = await f.take(`${queue}:0`);
    assert.equal(task.expire_time - task.start_time, 86_400_000);
    assert.equal(task.callback_url, '');
    for (const absent of ['instance_id', 'batch_id', 'trace_id', 'custom_id', 'result'])
      assert.equal(absent in task, false, absent);
  });

  test('names the instance of a streaming task', async () => {
    const queue = await f.queue();
    const { stream, id } = await f.stream(queue, { level: 9 });
    const [task] = await f.take(`${queue}:9`);
    assert.equal(task.instance_id, f.server.instance);
    await f.complete(id);
    await stream.rest();
  });

  test('takes a priority by name or number, the higher first', async () => {
    const queue = await f.queue();
    const order = ['low', 'normal', 'high', 'critical', 100].map((priority) => f.put(queue, { priority }));
    const ids = await Promise.all(order);
    const taken = [];
    for (const _ of ids) taken.push((await f.takeOne(`${queue}:0`)).task_id);
    assert.deepEqual(taken, ids.reverse());
  });

  test('a put is routed by model where it names no queue', async () => {
    const queue = await f.queue(EMBED);
    const id = await f.tryPut({ endpoint: EMBED, data: { model: queue } });
    assert.equal((await f.takeOne(`${queue}:0`)).task_id, id.json.data);
    assertRefused(await f.tryPut({ data: { model: 'nobody' } }), 400, /^no route for model nobody$/);
  });
});

describe('puts', () => {
  const puts = (tasks: unknown) => f.client('POST', '/v1/queue/puts', { tasks });
  const many = (queue: string, count: number) =>
    Array.from({ length: count }, (_, n) => ({ queue, endpoint: CHAT, data: { n } }));

  test('puts 1,000 tasks in order', async () => {
    const queue = await f.queue();
    const answer = await puts(many(queue, 1000));
    assert.equal(answer.status, 200, answer.text);
    assert.deepEqual(Object.keys(answer.json), ['data']);
    assert.equal(new Set(answer.json.data).size, 1000);
    const taken = await f.take(`${queue}:0`, { size: 1000 });
    assert.equal(taken.length, 1000);
    const byId = new Map(taken.map((task) => [task.task_id, task.data.n]));
    assert.deepEqual(
      answer.json.data.map((id: string) => byId.get(id)),
      Array.from({ length: 1000 }, (_, n) => n),
    );
  });

  test('refuses more than 1,000, and none', async () => {
    const queue = await f.queue();
    assertRefused(await puts(many(queue, 1001)), 400, undefined, 'tasks');
    assertRefused(await puts([]), 400, undefined, 'tasks');
    assert.deepEqual(await f.take(`${queue}:0`), []);
  });

  test('puts nothing when one task is refused, whatever the reason', async () => {
    const queue = await f.queue();
    const [good] = many(queue, 1);
    assertRefused(await puts([good, { ...good, queue: 'nowhere' }]), 404, /tasks\.1/);
    assertRefused(await puts([good, { ...good, endpoint: EMBED }]), 400, /tasks\.1/);
    assertRefused(await puts([good, good, { ...good, level: 100 }]), 400, undefined, 'tasks.2.level');
    assertRefused(await puts([{ ...good, callback_url: 'http://10.0.0.1/' }]), 400, undefined, 'tasks.0.callback_url');
    assertRefused(await puts([good, { queue, endpoint: CHAT }]), 400, undefined, 'tasks.1.data');
    assert.deepEqual(await f.take(`${queue}:0`), []);
  });

  test('takes callback tasks only', async () => {
    const queue = await f.queue();
    for (const response_mode of ['blocking', 'streaming'])
      assertRefused(
        await puts([{ queue, endpoint: CHAT, data: {}, response_mode }]),
        400,
        undefined,
        'tasks.0.response_mode',
      );
  });

  test('a level and a payload of its own for each task', async () => {
    const queue = await f.queue();
    const answer = await puts([
      { queue, endpoint: CHAT, level: 1, data: { a: 1 } },
      { endpoint: CHAT, level: 2, data: { model: queue } },
    ]);
    assert.equal((await f.takeOne(`${queue}:1`)).task_id, answer.json.data[0]);
    assert.deepEqual((await f.takeOne(`${queue}:2`)).data, { model: queue });
  });
});

describe('take', () => {
  test('answers by lane, and leaves out lanes without tasks', async () => {
    const [a, b] = [await f.queue(), await f.queue()];
    const inA = await f.put(a, { level: 1 });
    const inB = await f.put(b);
    const queues = [`${b}:0`, `${a}:0`, `${a}:1`];
    const answer = await f.worker('POST', '/v1/queue/take', { queues, size: 10 });
    assert.deepEqual(Object.keys(answer.json), [`${b}:0`, `${a}:1`]);
    assert.equal(answer.json[`${a}:1`][0].task_id, inA);
    assert.equal(answer.json[`${b}:0`][0].task_id, inB);
    assert.equal((await f.worker('POST', '/v1/queue/take', { queues, size: 10 })).text, '{}');
  });

  test('takes 1,000 at once and no more than it is asked for', async () => {
    const queue = await f.queue();
    for (const _ of [1, 2]) {
      const tasks = Array.from({ length: 600 }, () => ({ queue, endpoint: CHAT, data: {} }));
      await f.client('POST', '/v1/queue/puts', { tasks });
    }
    assert.equal((await f.take(`${queue}:0`, { size: 1000 })).length, 1000);
    assert.equal((await f.take(`${queue}:0`, { size: 1000 })).length, 200);
  });

  test('skips queues of another endpoint than it asks for', async () => {
    const [chat, embed] = [await f.queue(CHAT), await f.queue(EMBED)];
    await f.put(chat);
    const wanted = await f.put(embed, { endpoint: EMBED });
    const taken = await f.take([`${chat}:0`, `${embed}:0`], { size: 10, endpoint: EMBED });
    assert.deepEqual(
      taken.map((task) => task.task_id),
      [wanted],
    );
  });

  test('means by null and 0 what it means by leaving out, as clients with typed objects send them', async () => {
    const queue = await f.queue();
    const id = await f.put(queue, {
      level: null,
      response_mode: null,
      priority: null,
      timeout: null,
      callback_url: '',
    });
    const nothing = { strategy: null, wait: null, endpoint: null, lease_seconds: null, worker: null };
    const zero = { process_timeout: 0, process_max_retries: 0, min_age_seconds: 0 };
    const [task] = await f.take(`${queue}:0`, { ...nothing, ...zero });
    assert.deepEqual([task.task_id, task.level, task.response_mode], [id, 0, 'callback']);
  });

  test('leaves tasks that are younger than min_age_seconds', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    assert.deepEqual(await f.take(`${queue}:0`, { min_age_seconds: 3600 }), []);
    const old = await f.takeOne(`${queue}:0`, { min_age_seconds: 1 });
    assert.equal(old.task_id, id);
  });

  test('concurrent takers never get the same task', async () => {
    const queue = await f.queue();
    const tasks = Array.from({ length: 300 }, () => ({ queue, endpoint: CHAT, data: {} }));
    await f.client('POST', '/v1/queue/puts', { tasks });
    const taken = await Promise.all(Array.from({ length: 60 }, () => f.take(`${queue}:0`, { size: 5 })));
    const ids = taken.flat().map((task) => task.task_id);
    assert.equal(ids.length, 300);
    assert.equal(new Set(ids).size, 300);
  });
});

describe('complete', () => {
  test('of a task that a take never handed out conflicts and names its state', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    assertRefused(await f.complete(id), 409, /waiting/);
  });

  test('after a cancel conflicts and names its state', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.take(`${queue}:0`);
    const cancelled = await f.client('POST', `/v1/queue/${id}/cancel`);
    assert.deepEqual([cancelled.status, cancelled.json], [202, id]);
    assertRefused(await f.complete(id), 409, /cancelled/);
    assertRefused(await f.client('POST', `/v1/queue/${id}/cancel`), 409, /cancelled/);
  });

  test('twice at once with different answers lets one win', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.take(`${queue}:0`);
    const answers = await Promise.all(Array.from({ length: 10 }, (_, n) => f.complete(id, n)));
    const won = answers.findIndex((answer) => answer.status === 200);
    assert.deepEqual(answers.map((answer) => answer.status).sort(), [200, ...Array(9).fill(409)]);
    assert.equal((await f.client('GET', `/v1/queue/${id}`)).json.result.body, won);
  });

  test('twice at once with the same answer is ok for both', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.take(`${queue}:0`);
    const answers = await Promise.all([f.complete(id, 'same'), f.complete(id, 'same'), f.complete(id, 'same')]);
    assert.deepEqual(
      answers.map((answer) => answer.status),
      [200, 200, 200],
    );
  });

  test('names what is wrong with an answer', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    await f.take(`${queue}:0`);
    const complete = (body: unknown) => f.worker('POST', `/v1/queue/${id}/complete`, body);
    assertRefused(await complete({ body: 1 }), 400, undefined, 'status_code');
    assertRefused(await complete({ status_code: 200 }), 400, undefined, 'body');
    assertRefused(await complete({ status_code: '200', body: 1 }), 400, undefined, 'status_code');
    assertRefused(await complete({ status_code: 200, body: 1, attempt: 0 }), 400, undefined, 'attempt');
    assert.equal(await f.status(id), 'running');
  });

  test('in bulk gives each task its own verdict, in order', async () => {
    const queue = await f.queue();
    const [a, b, c] = [await f.put(queue), await f.put(queue), await f.put(queue)];
    await f.take(`${queue}:0`, { size: 2 });
    const results = [
      { task_id: a, status_code: 200, body: 1 },
      { task_id: c, status_code: 200, body: 1 },
      { task_id: 'nonsense', status_code: 200, body: 1 },
      { task_id: NO_SUCH_TASK, status_code: 200, body: 1 },
      { task_id: b, status_code: 500, body: 2, attempt: 1 },
      { task_id: a, status_code: 200, body: 1 },
      { task_id: a, status_code: 200, body: 'other' },
    ];
    const answer = await f.worker('POST', '/v1/queue/complete', { results });
    assert.equal(answer.status, 200, answer.text);
    assert.deepEqual(
      answer.json.data.map((one: Json) => [one.task_id, one.ok]),
      [
        [a, true],
        [c, false],
        ['nonsense', false],
        [NO_SUCH_TASK, false],
        [b, true],
        [a, true],
        [a, false],
      ],
    );
    for (const one of answer.json.data) assert.equal(typeof one.message, one.ok ? 'undefined' : 'string');
    assert.deepEqual([await f.status(a), await f.status(b), await f.status(c)], ['succeeded', 'failed', 'waiting']);
  });
});

describe('one task and lists', () => {
  test("another tenant's task is unknown: neither read, followed nor cancelled", async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    assertRefused(await f.other('GET', `/v1/queue/${id}`), 404, /unknown task/);
    assertRefused(await f.other('GET', `/v1/queue/${id}/events`), 404, /unknown task/);
    assertRefused(await f.other('POST', `/v1/queue/${id}/cancel`), 404, /unknown task/);
    assert.equal(await f.status(id), 'waiting');
    assert.deepEqual((await f.other('GET', `/v1/tasks?queue=${queue}`)).json, { data: [], has_more: false });
    for (const seer of [f.worker, f.admin]) assert.equal((await seer('GET', `/v1/queue/${id}`)).json.task_id, id);
    assert.equal((await f.admin('POST', `/v1/queue/${id}/cancel`)).status, 202);
  });

  test('lists page through all tasks, newest first or oldest first', async () => {
    const queue = await f.queue();
    const ids: string[] = [];
    for (let n = 0; n < 5; n++) ids.push(await f.put(queue));
    for (const order of ['desc', 'asc'] as const) {
      const seen: string[] = [];
      const pages: boolean[] = [];
      for (let after = ''; ; after = `&after=${seen.at(-1)}`) {
        const page = await f.client('GET', `/v1/tasks?queue=${queue}&limit=2&order=${order}${after}`);
        assert.deepEqual(Object.keys(page.json), ['data', 'has_more']);
        seen.push(...page.json.data.map((task: Json) => task.task_id));
        pages.push(page.json.has_more);
        if (!page.json.has_more) break;
      }
      assert.deepEqual(seen, order === 'asc' ? ids : [...ids].reverse());
      assert.deepEqual(pages, [true, true, false]);
    }
  });

  test('a page that ends with the last task says that there is no more', async () => {
    const queue = await f.queue();
    await f.put(queue);
    await f.put(queue);
    assert.equal((await f.client('GET', `/v1/tasks?queue=${queue}&limit=2`)).json.has_more, false);
  });

  test('lists filter by level and by every status', async () => {
    const queue = await f.queue();
    const waiting = await f.put(queue, { level: 1 });
    const [running, done, failed, gone] = [
      await f.put(queue),
      await f.put(queue),
      await f.put(queue),
      await f.put(queue),
    ];
    await f.client('POST', `/v1/queue/${gone}/cancel`);
    await f.take(`${queue}:0`, { size: 3 });
    await f.complete(done);
    await f.complete(failed, null, { status_code: 500 });
    const list = async (filter: string) =>
      (await f.client('GET', `/v1/tasks?queue=${queue}&${filter}`)).json.data.map((task: Json) => task.task_id);
    assert.deepEqual(await list('level=1'), [waiting]);
    assert.deepEqual(await list('status=waiting'), [waiting]);
    assert.deepEqual(await list('status=running'), [running]);
    assert.deepEqual(await list('status=succeeded'), [done]);
    assert.deepEqual(await list('status=failed'), [failed]);
    assert.deepEqual(await list('status=cancelled'), [gone]);
    assert.deepEqual(await list('status=dead'), []);
    assert.deepEqual(await list('status=expired'), []);
    assert.deepEqual(await list('status=deferred'), []);
    assert.deepEqual(await list('status=succeeded&level=1'), []);
    assert.deepEqual(await list('batch_id=BATCH-1-0-P-250101000000-0000-000001'), []);
  });

  test('lists refuse what they can not filter by', async () => {
    const bad = {
      'limit=0': 'limit',
      'limit=1001': 'limit',
      'limit=x': 'limit',
      'order=up': 'order',
      'status=done': 'status',
      'level=100': 'level',
      'after=TASK-x': 'after',
    };
    for (const [query, path] of Object.entries(bad))
      assertRefused(await f.client('GET', `/v1/tasks?${query}`), 400, undefined, path);
    assertRefused(await f.client('GET', '/v1/tasks?queue=nowhere'), 404, /unknown queue/);
  });
});

describe('large payloads', () => {
  test('come a few at a time: one answer carries 32 MiB, and what did not fit waits on as if it had not been taken', async () => {
    const queue = await f.queue();
    const data = { text: 'x'.repeat(9_000_000) };
    const ids: string[] = [];
    for (let n = 0; n < 5; n++) ids.push(await f.put(queue, { data }));

    const list = async (after = '') => (await f.client('GET', `/v1/tasks?queue=${queue}&order=asc${after}`)).json;
    const page = await list();
    assert.deepEqual([page.data.map((task: Json) => task.task_id), page.has_more], [ids.slice(0, 3), true]);
    const rest = await list(`&after=${ids[2]}`);
    assert.deepEqual([rest.data.map((task: Json) => task.task_id), rest.has_more], [ids.slice(3), false]);

    for (const some of [ids.slice(0, 3), ids.slice(3)]) {
      const taken = await f.take(`${queue}:0`, { size: 100 });
      assert.deepEqual(
        taken.map((task) => [task.task_id, task.attempt, task.data.text.length]),
        some.map((id) => [id, 1, 9_000_000]),
      );
    }
  });
});

test('a release of a task that does not run is a 409 that says what it is, wherever it went', async () => {
  const [again, later, last] = [await f.queue(), await f.queue(), await f.queue(CHAT, { max_attempts: 1 })];
  for (const [queue, body, state] of [
    [again, { delay_seconds: 0 }, 'waiting'],
    [later, { delay_seconds: 60 }, 'deferred'],
    [last, {}, 'dead'],
  ] as const) {
    const id = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    const release = () => f.worker('POST', `/v1/queue/${id}/release`, body);
    assert.equal((await release()).status, 200);
    assertRefused(await release(), 409, new RegExp(state));
    assert.equal(await f.status(id), state);
  }
});
