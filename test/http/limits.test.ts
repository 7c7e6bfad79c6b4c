import assert from 'node:assert/strict';
import { after, beforeEach, describe, test } from 'node:test';
import { createRecorder } from '../support/feed.ts';
import { type Answer, type Server, startServer } from '../support/server.ts';
import { assertRefused, CHAT, fixture } from './fixture.ts';

const f = fixture();
const psql = createRecorder(() => f.server.databaseUrl);
let second: Server | undefined;
let tenants = 0;
beforeEach(async () => {
  second ??= await startServer({ url: f.server.databaseUrl });
});
after(async () => {
  await second?.stop();
});

/** A tenant of its own with these limits, and a way to put for it, through the one server and the other in turn. */
async function tenant(limits: object) {
  const name = `limited${++tenants}`;
  const key = await f.server.key('client', name);
  const set = await f.admin('PATCH', `/v1/tenants/${name}`, limits);
  assert.equal(set.status, 200, set.text);
  let turn = 0;
  const put = (queue: string, more: object = {}): Promise<Answer> =>
    [f.server, second][turn++ % 2]?.request(
      'POST',
      '/v1/queue/put',
      { queue, endpoint: CHAT, data: {}, ...more },
      { key },
    ) as Promise<Answer>;
  const puts = (queue: string, count: number) =>
    f.server.request(
      'POST',
      '/v1/queue/puts',
      { tasks: Array.from({ length: count }, () => ({ queue, endpoint: CHAT, data: {} })) },
      { key },
    );
  const inFlight = async () =>
    (await f.admin('GET', '/v1/tenants')).json.data.find((row: { tenant: string }) => row.tenant === name).in_flight;
  return { name, key, put, puts, inFlight };
}

function assertLimited(answer: Answer, message: RegExp): void {
  assertRefused(answer, 429, message);
  assert.ok(Number(answer.headers.get('retry-after')) >= 1, 'Retry-After is missing');
}
const accepted = (answers: Answer[]) => answers.filter((answer) => answer.status === 200).length;

describe("a tenant's limits", () => {
  test('are shown, changed one by one, and lifted by null', async () => {
    const { name } = await tenant({ max_in_flight: 7 });
    const { json } = await f.admin('PATCH', `/v1/tenants/${name}`, { puts_per_second: 2.5 });
    const { created_at: createdAt, ...row } = json;
    assert.deepEqual(row, { tenant: name, max_in_flight: 7, puts_per_second: 2.5, in_flight: 0 });
    assert.ok(Math.abs(createdAt - Date.now()) < 60_000);
    const lifted = await f.admin('PATCH', `/v1/tenants/${name}`, { max_in_flight: null, puts_per_second: null });
    assert.deepEqual([lifted.json.max_in_flight, lifted.json.puts_per_second], [null, null]);
  });

  test('that can not be are refused, and so is an unknown tenant', async () => {
    for (const [body, path] of [
      [{ max_in_flight: 0 }, 'max_in_flight'],
      [{ max_in_flight: 1.5 }, 'max_in_flight'],
      [{ puts_per_second: 0 }, 'puts_per_second'],
      [{ puts_per_second: 'many' }, 'puts_per_second'],
    ] as const)
      assertRefused(await f.admin('PATCH', '/v1/tenants/default', body), 400, undefined, path);
    assertRefused(await f.admin('PATCH', '/v1/tenants/nobody', { max_in_flight: 1 }), 404, /unknown tenant/);
  });

  test('max_in_flight is exact over two servers, and an end makes room', async () => {
    const queue = await f.queue();
    const { put, inFlight } = await tenant({ max_in_flight: 5 });
    const answers = await Promise.all(Array.from({ length: 40 }, () => put(queue)));
    assert.equal(accepted(answers), 5);
    assert.equal(await inFlight(), 5);
    for (const answer of answers.filter((one) => one.status !== 200)) assertLimited(answer, /max_in_flight is 5/);
    const [task] = await f.take(`${queue}:0`);
    assert.equal((await put(queue)).status, 429);
    await f.complete(task.task_id);
    assert.equal((await put(queue)).status, 200);
    assert.equal((await put(queue)).status, 429);
    await psql.query('select tasklane.fold_tallies()');
    assert.equal(await inFlight(), 5);
    assert.equal((await put(queue)).status, 429);
  });

  test('puts_per_second lets a second of them pass at once, then that many a second', async () => {
    const queue = await f.queue();
    const { put } = await tenant({ puts_per_second: 20 });
    const started = performance.now();
    const answers = await Promise.all(Array.from({ length: 100 }, () => put(queue)));
    const seconds = (performance.now() - started) / 1000;
    const passed = accepted(answers);
    assert.ok(passed >= 20 && passed <= 20 + Math.ceil(20 * seconds) + 1, `${passed} passed in ${seconds} s`);
    for (const answer of answers.filter((one) => one.status !== 200)) assertLimited(answer, /20 tasks a second/);
  });

  test('a group of puts counts as many, and passes or not as a whole', async () => {
    const queue = await f.queue();
    const { puts, inFlight } = await tenant({ max_in_flight: 5 });
    assertLimited(await puts(queue, 6), /max_in_flight/);
    assert.equal((await puts(queue, 5)).status, 200);
    assert.equal(await inFlight(), 5);
    const fast = await tenant({ puts_per_second: 10 });
    assert.equal((await fast.puts(queue, 30)).status, 200);
    assertLimited(await fast.puts(queue, 1), /10 tasks a second/);
  });

  test('do not touch other tenants', async () => {
    const queue = await f.queue();
    const { put } = await tenant({ max_in_flight: 1 });
    await put(queue);
    assert.equal((await put(queue)).status, 429);
    assert.match(await f.put(queue), /^TASK-/);
  });

  test('a repeat under a key costs nothing, and a refused put leaves its key free', async () => {
    const queue = await f.queue();
    const { put, inFlight } = await tenant({ max_in_flight: 1 });
    const first = await put(queue, { idempotency_key: 'a' });
    assert.deepEqual((await put(queue, { idempotency_key: 'a' })).json.data, first.json.data);
    assertLimited(await put(queue, { idempotency_key: 'b' }), /max_in_flight/);
    await f.complete((await f.takeOne(`${queue}:0`)).task_id);
    const second = await put(queue, { idempotency_key: 'b', data: { other: true } });
    assert.equal(second.status, 200, second.text);
    assert.equal(await inFlight(), 1);
  });
});

describe("a queue's max_depth", () => {
  test('counts what waits and is deferred, exactly over two servers', async () => {
    const queue = await f.queue(CHAT, { max_depth: 5 });
    await f.put(queue, { delay_seconds: 3600 });
    const { put } = await tenant({});
    const answers = await Promise.all(Array.from({ length: 40 }, (_, n) => put(queue, { level: n % 3 })));
    assert.equal(accepted(answers), 4);
    for (const answer of answers.filter((one) => one.status !== 200)) assertLimited(answer, /max_depth is 5/);
  });

  test('has room again when a task is taken, and none for it when it comes back', async () => {
    const queue = await f.queue(CHAT, { max_depth: 1 });
    const id = await f.put(queue);
    assert.equal((await f.tryPut({ queue })).status, 429);
    await f.takeOne(`${queue}:0`);
    await f.put(queue);
    await f.worker('POST', `/v1/queue/${id}/release`, { delay_seconds: 0 });
    assert.equal(await f.status(id), 'waiting');
    assert.equal((await f.tryPut({ queue })).status, 429);
  });

  test('refuses a group that has one task too many, whatever else is in it', async () => {
    const [queue, other] = [await f.queue(CHAT, { max_depth: 2 }), await f.queue()];
    const group = (count: number) => ({
      tasks: [...Array.from({ length: count }, () => queue), other].map((name) => ({
        queue: name,
        endpoint: CHAT,
        data: {},
      })),
    });
    assertLimited(await f.client('POST', '/v1/queue/puts', group(3)), /max_depth/);
    assert.deepEqual(await f.take(`${other}:0`), []);
    assert.equal((await f.client('POST', '/v1/queue/puts', group(2))).status, 200);
  });

  test('goes with null', async () => {
    const queue = await f.queue(CHAT, { max_depth: 1 });
    await f.put(queue);
    assert.equal((await f.worker('PATCH', `/v1/queue/${queue}`, { max_depth: null })).json.max_depth, null);
    await f.put(queue);
  });
});

describe("a queue's max_running", () => {
  for (const strategy of ['fifo', 'round_robin', 'active_passive', 'sequential'])
    test(`${strategy}: is never passed by 20 takers on two servers, nor left unused`, async () => {
      const queue = await f.queue(CHAT, { max_running: 3 });
      for (let level = 0; level < 2; level++) for (let n = 0; n < 20; n++) await f.put(queue, { level });
      const lanes = [`${queue}:0`, `${queue}:1`];
      const takers = Array.from({ length: 20 }, (_, n) =>
        (n % 2 ? f.server : (second as Server)).request(
          'POST',
          '/v1/queue/take',
          { queues: n % 3 ? lanes : lanes.toReversed(), size: 1 + (n % 5), strategy },
          { key: f.keys.worker },
        ),
      );
      const taken = (await Promise.all(takers)).flatMap((answer) => Object.values(answer.json).flat());
      assert.equal(taken.length, strategy === 'sequential' ? 1 : 3);
    });

  test('a queue that is full does not keep a take from the others', async () => {
    const [full, free] = [await f.queue(CHAT, { max_running: 1 }), await f.queue()];
    for (let n = 0; n < 30; n++) await f.put(full);
    const ids = [await f.put(free), await f.put(free)];
    const taken = await f.take([`${full}:0`, `${free}:0`], { size: 3 });
    assert.deepEqual(taken.map((task) => task.queue).sort(), [free, free, full].sort());
    assert.deepEqual(
      taken.filter((task) => task.queue === free).map((task) => task.task_id),
      ids,
    );
  });

  for (const [how, end] of Object.entries({
    'is completed': (id: string) => f.complete(id),
    'is released': (id: string) => f.worker('POST', `/v1/queue/${id}/release`, { delay_seconds: 600 }),
    'is cancelled': (id: string) => f.client('POST', `/v1/queue/${id}/cancel`),
    'has its lease lapse': async () => undefined,
  }))
    test(`a take that waits on another server gets its turn when what runs ${how}`, async () => {
      const queue = await f.queue(CHAT, { max_running: 1, max_attempts: 1 });
      const id = await f.put(queue);
      const lease = how === 'has its lease lapse' ? 1 : 600;
      await f.takeOne(`${queue}:0`, { lease_seconds: lease });
      const next = await f.put(queue);
      const poll = (second as Server).request(
        'POST',
        '/v1/queue/take',
        { queues: [`${queue}:0`], size: 1, wait: 30 },
        { key: f.keys.worker },
      );
      await end(id);
      assert.equal((await poll).json[`${queue}:0`]?.[0].task_id, next);
    });
});
