import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { type Json, openStream } from '../support/server.ts';
import { CHAT, fixture } from './fixture.ts';

const f = fixture();
let psql: pg.Pool;

/** Resolves once the server has seen everything that was sent to it before. */
const settled = () => f.client('GET', '/v1/queues');
const sleeping = async (lanes: string | string[], more: object = {}) => {
  const tasks = f.take(lanes, { wait: 20, ...more });
  await settled();
  return { tasks };
};
const idOf = async (taskId: string) =>
  (await psql.query('select tasklane.parse_task_id($1) as id', [taskId])).rows[0].id as string;
/** Whether one transaction put the task and began its attempt. */
const inOneCommit = async (taskId: string): Promise<boolean> => {
  const { rows } = await psql.query(
    'select t.xmin = r.xmin as one from tasklane.task t join tasklane.running r using (id) where id = $1',
    [await idOf(taskId)],
  );
  return rows[0]?.one ?? false;
};

describe('a task that is put while a worker waits', { concurrency: true }, () => {
  before(() => {
    psql = new pg.Pool({ connectionString: f.server.databaseUrl, max: 2 });
  });
  after(() => psql?.end());

  test('is in the hands of the worker with the commit that puts it, and looks as any other that is taken', async () => {
    const queue = await f.queue(CHAT, { lease_seconds: 77 });
    const put = {
      queue,
      data: { n: '1.50', text: 'é"\\' },
      priority: 7,
      callback_url: 'http://127.0.0.1:9/',
      trace_id: 'trace',
      metadata: { a: '1', b: 'é"' },
      max_attempts: 2,
      timeout: 300,
    };
    const taken: Json[] = [];
    const { tasks } = await sleeping(`${queue}:0`);
    await f.put(queue, put);
    taken.push(...(await tasks));
    await f.put(queue, put);
    taken.push(...(await f.take(`${queue}:0`)));
    const [handed, usual] = taken as [Json, Json];
    assert.deepEqual([await inOneCommit(handed.task_id), await inOneCommit(usual.task_id)], [true, false]);
    const same = ({ task_id: _, start_time, expire_time, ...rest }: Json) => [rest, expire_time - start_time];
    assert.deepEqual(same(handed), same(usual));
    const shown = async (id: string) => {
      const {
        task_id: _,
        start_time: at,
        running_time,
        expire_time,
        attempts,
        ...rest
      } = (await f.client('GET', `/v1/queue/${id}`)).json;
      return [rest, expire_time - at, running_time >= at, attempts.length];
    };
    assert.deepEqual(await shown(handed.task_id), await shown(usual.task_id));
    const { rows } = await psql.query(
      `select attempt, rank, worker, lease_seconds, max_attempts, extract(epoch from lease_until - taken_at)::int as lease
       from tasklane.running where id = any ($1) order by id`,
      [[await idOf(handed.task_id), await idOf(usual.task_id)]],
    );
    assert.deepEqual(rows[0], rows[1]);
    assert.equal(rows[0].lease, 77);
    assert.equal((await f.complete(handed.task_id)).status, 200);
  });

  test('is held under the lease and the name that its worker asked for', async () => {
    const queue = await f.queue();
    const { tasks } = await sleeping(`${queue}:0`, {
      worker: { id: 'w-handed' },
      lease_seconds: 33,
      process_max_retries: 0,
    });
    const id = await f.put(queue);
    assert.equal((await tasks)[0]?.task_id, id);
    const { rows } = await psql.query(
      'select worker, lease_seconds, max_attempts from tasklane.running where id = $1',
      [await idOf(id)],
    );
    assert.deepEqual(rows, [{ worker: 'w-handed', lease_seconds: 33, max_attempts: 1 }]);
  });

  test('of several goes first if it is the most urgent; as many as the worker takes go together', async () => {
    const [a, b] = [await f.queue(), await f.queue()];
    const { tasks } = await sleeping([`${a}:0`, `${b}:3`], { size: 2 });
    const puts = [
      { queue: a, priority: 5 },
      { queue: b, level: 3, priority: 9 },
      { queue: a, priority: 5 },
      { queue: a, priority: 60 },
    ].map((more) => ({ endpoint: CHAT, data: {}, ...more }));
    const { json } = await f.client('POST', '/v1/queue/puts', { tasks: puts });
    assert.deepEqual((await tasks).map((task) => task.task_id).sort(), [json.data[1], json.data[3]].sort());
    assert.ok(await inOneCommit(json.data[3]));
    const rest = await f.take(`${a}:0`, { size: 10 });
    assert.deepEqual(
      rest.map((task) => task.task_id),
      [json.data[0], json.data[2]],
    );
  });

  test('waits where its queue is paused, and goes out when that is resumed', async () => {
    const queue = await f.queue();
    assert.equal((await f.worker('POST', `/v1/queue/${queue}/pause`)).status, 200);
    const { tasks } = await sleeping(`${queue}:0`);
    const id = await f.put(queue);
    assert.equal(await f.status(id), 'waiting');
    await f.worker('POST', `/v1/queue/${queue}/resume`);
    assert.deepEqual(
      (await tasks).map((task) => task.task_id),
      [id],
    );
  });

  test('waits where as many run as may, and goes out when one ends', async () => {
    const queue = await f.queue(CHAT, { max_running: 1 });
    const first = await f.put(queue);
    await f.takeOne(`${queue}:0`);
    const { tasks } = await sleeping(`${queue}:0`);
    const second = await f.put(queue);
    assert.equal(await f.status(second), 'waiting');
    await f.complete(first);
    assert.deepEqual(
      (await tasks).map((task) => task.task_id),
      [second],
    );
  });

  test('for later, is not handed to it', async () => {
    const queue = await f.queue();
    const { tasks } = await sleeping(`${queue}:0`);
    const later = await f.put(queue, { delay_seconds: 3600 });
    const now = await f.put(queue);
    assert.deepEqual(
      (await tasks).map((task) => task.task_id),
      [now],
    );
    assert.equal(await f.status(later), 'deferred');
  });

  test('again under its idempotency key, is not handed out again', async () => {
    const queue = await f.queue();
    const first = await sleeping(`${queue}:0`);
    const id = await f.put(queue, { idempotency_key: 'once' });
    assert.equal((await first.tasks)[0]?.task_id, id);
    assert.ok(await inOneCommit(id));
    const second = await sleeping(`${queue}:0`);
    assert.equal(await f.put(queue, { idempotency_key: 'once' }), id);
    const other = await f.put(queue);
    assert.deepEqual(
      (await second.tasks).map((task) => task.task_id),
      [other],
    );
  });

  test('that is refused leaves the worker waiting', async () => {
    const queue = await f.queue();
    const { tasks } = await sleeping(`${queue}:0`);
    const refused = await f.client('POST', '/v1/queue/puts', {
      tasks: [
        { queue, endpoint: CHAT, data: {} },
        { queue: 'no-such-queue', endpoint: CHAT, data: {} },
      ],
    });
    assert.equal(refused.status, 404);
    const id = await f.put(queue);
    assert.deepEqual(
      (await tasks).map((task) => task.task_id),
      [id],
    );
    assert.ok(await inOneCommit(id));
  });

  test('by its model goes where the model is served now, whoever waited where it was before', async () => {
    const [before, now] = [await f.queue(), await f.queue()];
    const model = `model-of-${before}`;
    const serve = async (queue: string) => {
      const answer = await f.worker('POST', '/v1/channels', { endpoint: CHAT, model, queue });
      assert.equal(answer.status, 200, answer.text);
    };
    const put = () => f.put('', { queue: undefined, data: { model } });
    await serve(before);
    const first = await put();
    await f.takeOne(`${before}:0`);
    const known = await sleeping(`${before}:0`);
    const second = await put();
    assert.deepEqual([(await known.tasks)[0]?.task_id, await inOneCommit(second)], [second, true]);
    await serve(now);
    const [old, next] = [await sleeping(`${before}:0`), await sleeping(`${now}:0`)];
    const third = await put();
    assert.equal((await next.tasks)[0]?.task_id, third);
    const last = await f.put(before);
    assert.deepEqual([(await old.tasks)[0]?.task_id, new Set([first, second, third, last]).size], [last, 4]);
  });

  test('is told of in the feed as put, then as started', async () => {
    const queue = await f.queue();
    const feed = await openStream(f.server, 'GET', `/v1/events?queue=${queue}`, undefined, { key: f.keys.client });
    const { tasks } = await sleeping(`${queue}:0`);
    const id = await f.put(queue);
    await tasks;
    for (const expected of [
      ['submitted', id, 0],
      ['started', id, 1],
    ]) {
      const event = await feed.next();
      const { task_id, attempt } = JSON.parse(event?.data ?? '{}');
      assert.deepEqual([event?.name, task_id, attempt], expected);
    }
    feed.close();
  });
});
