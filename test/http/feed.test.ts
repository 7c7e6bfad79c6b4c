import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { after, afterEach, describe, test } from 'node:test';
import { createRecorder } from '../support/feed.ts';
import { type Json, openStream, type Stream, startServer } from '../support/server.ts';
import { assertRefused, CHAT, fixture, NO_SUCH_TASK } from './fixture.ts';

const f = fixture();
const psql = createRecorder(() => f.server.databaseUrl);
let streams: Stream[] = [];

after(psql.close);
afterEach(() => {
  for (const stream of streams) stream.close();
  streams = [];
});

async function follow(query: string, options: { key?: string; after?: string } = {}): Promise<Stream> {
  const stream = await openStream(f.server, 'GET', `/v1/events?${query}`, undefined, {
    key: options.key ?? f.keys.client,
    headers: options.after === undefined ? {} : { 'Last-Event-ID': options.after },
  });
  streams.push(stream);
  return stream;
}

async function nextOf(stream: Stream): Promise<{ id: string; name: string; data: Json }> {
  const event = await stream.next();
  assert.ok(event?.id, 'the feed has ended');
  return { id: event.id, name: event.name, data: JSON.parse(event.data) };
}

const attempts = async (stream: Stream, count: number): Promise<number[]> => {
  const found: number[] = [];
  while (found.length < count) found.push((await nextOf(stream)).data.attempt);
  return found;
};

/** Puts a task of another tenant. */
async function putForeign(queue: string): Promise<string> {
  return (await f.other('POST', '/v1/queue/put', { queue, endpoint: CHAT, data: {} })).json.data;
}

test('nothing is recorded before somebody follows, and it goes on after all have left', async () => {
  assert.equal(await psql.recording(), false);
  const queue = await f.queue();
  const id = await f.put(queue);
  assert.deepEqual(await psql.query('select from tasklane.event_stage'), []);
  const stream = await follow(`queue=${queue}`);
  assert.equal(await psql.recording(), true);
  stream.close();
  await psql.record([id]);
  assert.equal(await psql.recording(), true);
});

test('an event has the type, the task and what it is in', async () => {
  const queue = await f.queue();
  const id = await f.put(queue, { level: 3 });
  const stream = await follow(`task_id=${id}`);
  assert.equal(stream.headers.get('content-type'), 'text/event-stream; charset=utf-8');
  const before = Date.now();
  await psql.record([id], 'started', { attempt: 1, status: 'running' });
  await psql.record([id], 'progress', { attempt: 1, status: 'running', data: { event_name: 'a\nb', event_data: [1] } });
  const [started, progress] = [await nextOf(stream), await nextOf(stream)];
  const { timestamp, ...data } = started.data;
  assert.equal(started.name, 'started');
  assert.deepEqual(data, { type: 'started', task_id: id, queue, level: 3, status: 'running', attempt: 1 });
  assert.ok(Math.abs(timestamp - before) < 60_000);
  assert.deepEqual(progress.data.data, { event_name: 'a\nb', event_data: [1] });
  assert.ok(Number(progress.id) > Number(started.id));
});

test('a feed begins once its headers are there: no event after them is missed, none before them is in it', async () => {
  const queue = await f.queue();
  const id = await f.put(queue);
  for (let n = 0; n < 10; n++) {
    await psql.record([id], 'started', { attempt: 100 });
    const stream = await follow(`task_id=${id}`);
    await psql.record([id], 'started', { attempt: n });
    assert.equal((await nextOf(stream)).data.attempt, n);
    stream.close();
  }
});

describe('filters', () => {
  const expected: [name: string, query: (on: Json) => string, attempts: number[]][] = [
    ['none', () => '', [1, 2, 3, 4]],
    ['a type', () => 'types=started', [1, 3]],
    ['types', () => 'types=completed,%20started', [1, 3, 4]],
    ['a queue', ({ one }) => `queue=${one}`, [1, 2]],
    ['a task', ({ second }) => `task_id=${second}`, [3, 4]],
    ['a batch', () => 'batch_id=BATCH-0-1-250101000000-0000-000077', [3, 4]],
    [
      'all together',
      ({ two, second }) => `types=completed&queue=${two}&task_id=${second}&batch_id=BATCH-0-1-250101000000-0000-000077`,
      [4],
    ],
    ['those that no event matches', ({ one, second }) => `queue=${one}&task_id=${second}`, []],
  ];
  for (const [name, query, found] of expected) {
    test(`${name} hold for what comes and for what is resumed`, async () => {
      const [one, two] = [await f.queue(), await f.queue()];
      const [first, second, foreign] = [await f.put(one), await f.put(two), await putForeign(one)];
      await psql.query('update tasklane.task set batch_id = 77 where id = tasklane.parse_task_id($1)', [second]);
      const filter = query({ one, two, second });
      const marks = await follow('types=dead');
      await psql.record([first], 'dead');
      const { id: start } = await nextOf(marks);
      const live = await follow(filter);
      await psql.record([foreign], 'started', { attempt: 9 });
      await psql.record([first], 'started', { attempt: 1 });
      await psql.record([first], 'progress', { attempt: 2 });
      await psql.record([second], 'started', { attempt: 3 });
      await psql.record([second], 'completed', { attempt: 4 });
      assert.deepEqual(await attempts(live, found.length), found);
      // Read by another feed when all of these have been passed over, or not.
      await psql.record([second], 'dead', { attempt: 5 });
      await nextOf(marks);
      assert.deepEqual(await attempts(await follow(filter, { after: start }), found.length), found);
      if (found.length === 0) assert.ok(!live.raw.includes('event:'));
    });
  }

  test('that name what there is not are refused', async () => {
    const queue = await f.queue();
    const foreign = await putForeign(queue);
    const get = (query: string) => f.client('GET', `/v1/events?${query}`);
    assertRefused(await get('types=started,begun'), 400, /"begun"/, 'types');
    assertRefused(await get('types='), 400, /""/, 'types');
    assertRefused(await get('queue=nowhere'), 404, /unknown queue "nowhere"/);
    assertRefused(await get('queue='), 404);
    assertRefused(await get('queue=%00'), 400, /NUL/, 'queue');
    assertRefused(await get(`task_id=${NO_SUCH_TASK}`), 404, /unknown task/);
    assertRefused(await get('task_id=nonsense'), 404, /unknown task/);
    assertRefused(await get(`task_id=${foreign}`), 404, /unknown task/);
    assertRefused(await get('batch_id=%00'), 400, /NUL/, 'batch_id');
    assertRefused(await get('batch_id=77'), 404, /unknown batch 77/);
  });
});

test('a client sees the events of its tenant, an admin those of all', async () => {
  const queue = await f.queue();
  const [mine, foreign] = [await f.put(queue), await putForeign(queue)];
  const feeds = [
    await follow(`queue=${queue}`),
    await follow(`queue=${queue}`, { key: f.keys.other }),
    await follow(`queue=${queue}`, { key: f.keys.admin }),
  ] as [Stream, Stream, Stream];
  await psql.record([mine, foreign, mine]);
  const ids = async (stream: Stream, count: number) => {
    const found: string[] = [];
    while (found.length < count) found.push((await nextOf(stream)).data.task_id);
    return found;
  };
  assert.deepEqual(await ids(feeds[2], 3), [mine, foreign, mine]);
  assert.deepEqual(await ids(feeds[0], 2), [mine, mine]);
  assert.deepEqual(await ids(feeds[1], 1), [foreign]);
  await follow(`task_id=${foreign}`, { key: f.keys.admin });
});

describe('Last-Event-ID', () => {
  test('goes on after that event, 1,200 events later too, each once and in order', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    const stream = await follow(`task_id=${id}`);
    await psql.record([id], 'progress', { attempt: 0 });
    const { id: first } = await nextOf(stream);
    stream.close();
    for (let n = 1; n <= 2; n++) await psql.record(Array(600).fill(id), 'progress', { attempt: n });
    const resumed = await follow(`task_id=${id}`, { after: first });
    const last = psql.record([id], 'progress', { attempt: 3 });
    const found = await attempts(resumed, 1201);
    await last;
    assert.deepEqual(found, [...Array(600).fill(1), ...Array(600).fill(2), 3]);
  });

  test('0 means from the oldest that is kept', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    (await follow('')).close();
    await psql.record([id], 'started', { attempt: 1 });
    const stream = await follow(`task_id=${id}&types=started`, { after: '0' });
    assert.deepEqual(await attempts(stream, 1), [1]);
  });

  test('goes on with what is left when the events after it have been deleted', async () => {
    const queue = await f.queue();
    const id = await f.put(queue);
    const stream = await follow(`task_id=${id}`);
    await psql.record([id, id], 'started', { attempt: 1 });
    const { id: first } = await nextOf(stream);
    await nextOf(stream);
    await psql.query('delete from tasklane.event');
    const resumed = await follow(`task_id=${id}`, { after: first });
    await psql.record([id], 'started', { attempt: 2 });
    assert.deepEqual(await attempts(resumed, 1), [2]);
  });

  test('that is no id of an event is refused', async () => {
    for (const after of ['', 'x', '-1', '1.5', '1e3', ' 1 2', '99999999999999999999', '999999999999']) {
      const answer = await f.client('GET', '/v1/events', undefined, { headers: { 'Last-Event-ID': after } });
      assertRefused(answer, 400, /Last-Event-ID/);
    }
  });
});

test('a feed of a revoked key ends before the next event', async () => {
  const made = (await f.admin('POST', '/v1/keys', { role: 'client' })).json;
  const id = await f.put(await f.queue());
  const stream = await follow(`task_id=${id}`, { key: made.key });
  await psql.record([id]);
  await nextOf(stream);
  assert.equal((await f.admin('DELETE', `/v1/keys/${made.id}`)).status, 204);
  await psql.record([id]);
  assert.equal(await stream.next(), undefined);
});

test('a feed goes on when the connections to the database were lost', async () => {
  const id = await f.put(await f.queue());
  const stream = await follow(`task_id=${id}`);
  for (let n = 1; n <= 3; n++) {
    await psql.query(
      'select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()',
    );
    await psql.record([id], 'started', { attempt: n });
    assert.deepEqual(await attempts(stream, 1), [n]);
  }
});

test('a reader that does not read holds up nobody, and finds all when it does', async () => {
  const id = await f.put(await f.queue());
  const headers = { Authorization: `Bearer ${f.keys.client}` };
  const slow = request(`${f.server.url}/v1/events?task_id=${id}`, { headers }).end();
  const [response] = (await once(slow, 'response')) as [IncomingMessage];
  response.pause();
  const quick = await follow(`task_id=${id}&types=dead`);
  const count = 2000;
  for (let n = 0; n < count; n += 500)
    await psql.record(Array(500).fill(id), 'progress', { attempt: n, data: 'x'.repeat(10_000) });
  await psql.record([id], 'dead', { attempt: count });
  await nextOf(quick);

  let text = '';
  const found: number[] = [];
  for await (const chunk of response.setEncoding('utf8')) {
    const blocks = (text + chunk).split('\n\n');
    text = blocks.pop() as string;
    for (const block of blocks) {
      const attempt = /"attempt":(\d+)/.exec(block)?.[1];
      if (attempt !== undefined) found.push(Number(attempt));
    }
    if (found.length > count) break;
  }
  assert.deepEqual(
    found,
    Array.from({ length: count + 1 }, (_, n) => n - (n % 500)),
  );
});

test('a server that stops ends its feeds', async () => {
  const server = await startServer();
  const stream = await openStream(server, 'GET', '/v1/events');
  const exit = server.stop();
  assert.equal(await stream.next(), undefined);
  assert.deepEqual(await exit, { code: 0, signal: null });
});
