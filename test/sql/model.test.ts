import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Item, type Session, type TakenRow, testDatabase } from '../support/sql.ts';

// MODEL_RUNS=2000 looks for longer; MODEL_SEED repeats a run, whose seed a failure prints; MODEL_SHRINK=1 makes it as short as it can be.
const RUNS = Number(process.env.MODEL_RUNS ?? 10);
const SEED = Number(process.env.MODEL_SEED ?? Math.floor(Math.random() * 2 ** 31));

const database = await testDatabase();
const db = await database.open();
let session = await database.open();

type Queue = {
  name: string;
  max_attempts: number;
  max_running: number | null;
  max_depth: number | null;
  ages: boolean;
};
type Task = {
  id: bigint;
  queue: Queue;
  level: number;
  tenant: number;
  state: string;
  attempt: number;
  /** In force, and the one that a replay goes back to. */
  rank: number;
  putRank: number;
  maxAttempts: number | null;
  takeMax: number | null;
  history: number;
  /** What a complete that repeats the end must say. */
  status?: number;
};
type Model = { queues: Queue[]; tenants: number[]; tasks: Task[]; keys: Map<string, { body: string; id: bigint }> };

const BODIES = { a: 'aa'.repeat(32), b: 'bb'.repeat(32) };
const isLive = (task: Task) => ['waiting', 'running', 'deferred'].includes(task.state);
const byOrder = (x: Task, y: Task) => x.rank - y.rank || (x.id < y.id ? -1 : 1);
const ids = (rows: { id: bigint | null }[]) => rows.map((row) => row.id);

/** The nth task, in any state; n counts round. */
const pick = (model: Model, n: number) => model.tasks[n % model.tasks.length];
const running = (model: Model, queue: Queue) =>
  model.tasks.filter((task) => task.queue === queue && task.state === 'running').length;

type Act = { title: string; run(model: Model, session: Session): Promise<void> };
const act = <Parts extends object>(
  kind: string,
  arbitrary: fc.Arbitrary<Parts>,
  run: (parts: Parts, model: Model, session: Session) => Promise<void>,
): fc.Arbitrary<Act> =>
  arbitrary.map((parts) => ({
    title: `${kind} ${JSON.stringify(parts)}`,
    run: (model, on) => run(parts, model, on),
  }));

const nth = fc.nat(40);
/** Which attempt a worker names: its own, one before, or none. */
const fence = fc.constantFrom(0, 0, 0, -1, null);
const attemptOf = (task: Task, by: number | null) => (by === null ? undefined : task.attempt + by);
const isHeld = (task: Task, by: number | null) => task.state === 'running' && by !== -1;

const item = fc.record({
  /** 30: none that there is. */
  queue: fc.nat(30),
  level: fc.nat(1),
  priority: fc.constantFrom(0, 5, 5, 99, 100),
  maxAttempts: fc.constantFrom(null, null, 1, 2),
  later: fc.constantFrom(false, false, false, true),
  past: fc.boolean(),
  mode: fc.constantFrom('callback', 'blocking', 'streaming'),
  key: fc.constantFrom(null, null, null, 'k', 'l'),
  body: fc.constantFrom('a' as const, 'a' as const, 'b' as const),
});

/** One group, which stands or falls as a whole. */
const put = act(
  'put',
  fc.record({ tenant: fc.nat(1), items: fc.array(item, { minLength: 1, maxLength: 4 }) }),
  async ({ tenant, items }, model, on) => {
    const tenantId = model.tenants[tenant] as number;
    const queueOf = (n: number) => (n === 30 ? undefined : model.queues[n % 3]);
    const rows = await on.tryPut(
      items.map(({ maxAttempts, later, past, key, body, queue, ...rest }): Item => {
        const options = {
          ...(maxAttempts === null ? {} : { max_attempts: maxAttempts }),
          ...(later ? { delay_seconds: 60 } : past ? { run_at: 1 } : {}),
          ...(key === null ? {} : { idempotency_key: key, body_hash: BODIES[body] }),
        };
        return {
          ...rest,
          group: 1,
          tenant: tenantId,
          queue: queueOf(queue)?.name ?? 'nowhere',
          ...(Object.keys(options).length > 0 ? { options } : {}),
        };
      }),
    );
    const keys = new Map(model.keys);
    const fresh: Task[] = [];
    const states: string[] = [];
    let refused = items.some(({ queue }) => queueOf(queue) === undefined);
    for (const [index, { queue: n, level, priority, maxAttempts, later, key, body }] of items.entries()) {
      const queue = queueOf(n);
      if (refused || queue === undefined) continue;
      const { id } = rows[index] as { id: bigint };
      const known = key === null ? undefined : keys.get(`${tenantId} ${key}`);
      if (known) {
        refused ||= known.body !== body;
        states.push('repeated');
        continue;
      }
      if (key !== null) keys.set(`${tenantId} ${key}`, { body, id });
      const rank = 100 - priority;
      const state = later ? 'deferred' : 'waiting';
      states.push(state);
      fresh.push({
        ...{ id, queue, level, tenant: tenantId, state, attempt: 0, rank, putRank: rank },
        ...{ maxAttempts, takeMax: null, history: 0 },
      });
    }
    for (const queue of model.queues) {
      const more = fresh.filter((task) => task.queue === queue).length;
      const there = model.tasks.filter(
        (task) => task.queue === queue && isLive(task) && task.state !== 'running',
      ).length;
      refused ||= more > 0 && queue.max_depth !== null && there + more > queue.max_depth;
    }
    assert.equal(
      rows.some((row) => row.code !== null),
      refused,
      JSON.stringify(rows.map((row) => row.message)),
    );
    if (refused) return;
    assert.deepEqual(
      rows.map((row) => row.state),
      states,
    );
    model.keys = keys;
    model.tasks.push(...fresh);
  },
);

/** What a take must give, in order; of round_robin, whose turns are a matter of its own tests, only how many of each lane. */
function expectedOf(model: Model, lanes: { queue: Queue; level: number }[], strategy: string, size: number): Task[] {
  const waiting = lanes.map((lane) =>
    model.tasks
      .filter((task) => task.queue === lane.queue && task.level === lane.level && task.state === 'waiting')
      .sort(byOrder),
  );
  const rooms = new Map(
    model.queues.map((queue) => [queue, Math.max(0, (queue.max_running ?? Infinity) - running(model, queue))]),
  );
  const chosen: Task[] = [];
  const choose = (task: Task | undefined) => {
    const room = task && (rooms.get(task.queue) as number);
    if (!task || !room || chosen.length >= size) return;
    rooms.set(task.queue, room - 1);
    chosen.push(task);
  };
  if (strategy === 'fifo') waiting.flat().sort(byOrder).forEach(choose);
  else if (strategy === 'active_passive') waiting.flat().forEach(choose);
  else
    for (const [index, { queue }] of lanes.entries())
      if (running(model, queue) === 0 && !chosen.some((task) => task.queue === queue)) choose(waiting[index]?.[0]);
  return chosen;
}

const take = act(
  'take',
  fc.record({
    lanes: fc.uniqueArray(fc.nat(5), { minLength: 1, maxLength: 6 }),
    strategy: fc.constantFrom('fifo', 'fifo', 'active_passive', 'sequential', 'round_robin'),
    size: fc.integer({ min: 1, max: 5 }),
    lease: fc.constantFrom(null, 100, 3000),
    maxAttempts: fc.constantFrom(null, null, 1, 5),
  }),
  async ({ lanes: picked, strategy, size, lease, maxAttempts }, model, on) => {
    const lanes = picked.map((n) => ({ queue: model.queues[n >> 1] as Queue, level: n & 1 }));
    const rows: TakenRow[] = await on.take(
      lanes.map(({ queue, level }) => `${queue.name}:${level}`),
      { strategy, size, leases: [lease], workers: ['w'], maxAttempts: [maxAttempts] },
    );
    if (strategy === 'round_robin') {
      // As many as fifo, with its tasks or others of the same lanes: each lane's first ones, and no lane more than its share.
      assert.equal(rows.length, expectedOf(model, lanes, 'fifo', size).length);
      const counts = lanes.map((lane) => {
        const mine = rows.filter((row) => row.queue === lane.queue.name && row.level === lane.level);
        const first = model.tasks
          .filter((task) => task.queue === lane.queue && task.level === lane.level && task.state === 'waiting')
          .sort(byOrder);
        assert.deepEqual(ids(mine), ids(first.slice(0, mine.length)));
        return { count: mine.length, more: first.length > mine.length && lane.queue.max_running === null };
      });
      if (lanes.every((lane) => lane.queue.max_running === null)) {
        const most = Math.max(...counts.map(({ count }) => count));
        for (const { count, more } of counts) assert.ok(!more || count >= most - 1, 'a lane got less than its turn');
      }
    } else assert.deepEqual(ids(rows), ids(expectedOf(model, lanes, strategy, size)));
    for (const row of rows) {
      const task = model.tasks.find(({ id }) => id === row.id) as Task;
      task.attempt++;
      task.state = 'running';
      task.takeMax = maxAttempts;
      assert.equal(row.attempt, task.attempt);
    }
  },
);

const complete = act(
  'complete',
  fc.record({ n: nth, by: fence, status: fc.constantFrom(200, 500) }),
  async ({ n, by, status }, model, on) => {
    const task = pick(model, n);
    if (!task) return;
    const attempt = attemptOf(task, by);
    const verdicts = await on.verdicts([{ id: task.id, status, ...(attempt === undefined ? {} : { attempt }) }]);
    if (isHeld(task, by)) {
      assert.deepEqual(verdicts, ['completed']);
      task.state = status === 200 ? 'succeeded' : 'failed';
      task.status = status;
    } else assert.deepEqual(verdicts, [task.status === status && by !== -1 ? 'repeated' : task.state]);
  },
);

const release = act(
  'release',
  fc.record({ n: nth, by: fence, delay: fc.constantFrom(undefined, 0, 60), begun: fc.boolean() }),
  async ({ n, by, delay, begun }, model, on) => {
    const task = pick(model, n);
    if (!task) return;
    const attempt = attemptOf(task, by);
    const [row] = await on.release([
      { id: task.id, begun, ...(attempt === undefined ? {} : { attempt }), ...(delay === undefined ? {} : { delay }) },
    ]);
    if (isHeld(task, by)) {
      if (!begun) {
        task.attempt--;
        task.state = delay === 60 ? 'deferred' : 'waiting';
      } else {
        task.history++;
        if (task.attempt >= (task.maxAttempts ?? task.queue.max_attempts)) task.state = 'dead';
        else task.state = delay === 0 ? 'waiting' : 'deferred';
      }
      assert.equal(row?.lane, `${task.queue.name}:${task.level}`);
    } else assert.equal(row?.lane, null);
    assert.equal(row?.verdict, task.state);
  },
);

const giveBack = act('return', fc.record({ n: nth, by: fc.constantFrom(0, -1) }), async ({ n, by }, model, on) => {
  const task = pick(model, n);
  if (!task) return;
  const rows = await on.rows<{ id: bigint }>('select * from tasklane.return_tasks(array[$1::bigint], array[$2::int])', [
    task.id,
    task.attempt + by,
  ]);
  assert.equal(rows.length, isHeld(task, by) ? 1 : 0);
  if (!isHeld(task, by)) return;
  task.attempt--;
  task.state = 'waiting';
});

const heartbeat = act('heartbeat', fc.record({ n: nth, by: fence }), async ({ n, by }, model, on) => {
  const task = pick(model, n);
  if (!task) return;
  const attempt = attemptOf(task, by);
  const [row] = await on.heartbeat([{ id: task.id, ...(attempt === undefined ? {} : { attempt }) }]);
  assert.equal(row?.verdict, isHeld(task, by) ? 'extended' : task.state === 'cancelled' ? 'cancelled' : 'lost');
});

const cancel = act('cancel', fc.record({ n: nth, foreign: fc.boolean() }), async ({ n, foreign }, model, on) => {
  const task = pick(model, n);
  if (!task) return;
  const tenant = foreign ? model.tenants.find((id) => id !== task.tenant) : task.tenant;
  const refusals = await on.refusals([task.id], [tenant as number]);
  assert.deepEqual(refusals, [foreign ? 'unknown' : isLive(task) ? null : task.state]);
  if (!foreign && isLive(task)) task.state = 'cancelled';
});

const prioritise = act(
  'priority',
  fc.record({ n: nth, priority: fc.constantFrom(0, 50, 100) }),
  async ({ n, priority }, model, on) => {
    const task = pick(model, n);
    if (!task) return;
    const [row] = await on.setPriorities([task.id], [priority]);
    const moves = task.state === 'waiting' || task.state === 'deferred';
    assert.equal(row?.refusal, moves ? null : task.state);
    if (moves) task.rank = task.putRank = 100 - priority;
  },
);

const replay = act('replay', fc.record({ n: nth }), async ({ n }, model, on) => {
  const task = pick(model, n);
  if (!task) return;
  const [row] = await on.replay([task.id]);
  assert.equal(row?.refusal, task.state === 'dead' ? null : task.state);
  if (task.state === 'dead') Object.assign(task, { state: 'waiting', attempt: 0, rank: task.putRank });
});

/** Leases lapse, delays are over. */
const lapse = act('lapse', fc.record({ list: fc.array(nth, { maxLength: 5 }) }), async ({ list }, model, on) => {
  const tasks = [...new Set(list.map((n) => pick(model, n)))].filter((task) => task !== undefined);
  await on.lapse(ids(tasks) as bigint[]);
  const due = tasks.filter((task) => task.state === 'running' || task.state === 'deferred');
  const rows = await on.sweep();
  for (const task of due) {
    if (task.state === 'running') {
      task.history++;
      const isLast = task.attempt >= (task.takeMax ?? task.maxAttempts ?? task.queue.max_attempts);
      task.state = isLast ? 'dead' : 'waiting';
    } else task.state = 'waiting';
    assert.deepEqual(
      rows.filter((row) => row.id === task.id).map((row) => row.outcome),
      [task.state],
    );
  }
  assert.equal(rows.filter((row) => row.id !== null).length, due.length);
});

const grow = act('age', fc.record({ n: nth }), async ({ n }, model, on) => {
  const task = pick(model, n);
  if (!task) return;
  await on.run(
    "update tasklane.ready set ages_at = now() - interval '1 second' where id = $1 and ages_at is not null",
    [task.id],
  );
  const moved = (await on.sweep()).filter((row) => row.outcome === 'moved');
  if (task.queue.ages && task.state === 'waiting' && task.rank > 0) {
    task.rank--;
    assert.deepEqual(
      moved.map((row) => [row.id, row.rank]),
      [[task.id, task.rank]],
    );
  } else assert.deepEqual(moved, []);
});

const expire = act('expire', fc.record({ n: nth, swept: fc.boolean() }), async ({ n, swept }, model, on) => {
  const task = pick(model, n);
  // A dead task's time is what its next life gets.
  if (!task || !isLive(task)) return;
  await on.age([task.id]);
  const rows =
    swept && (task.state !== 'waiting' || task.level === 0)
      ? (await on.sweep()).filter((row) => row.id !== null)
      : await on.rows<{ id: bigint }>('select * from tasklane.expire_tasks(array[$1::bigint])', [task.id]);
  assert.deepEqual(ids(rows), [task.id]);
  task.state = 'expired';
});

const fold = act('fold', fc.record({}), (_, _model, on) => on.run('select tasklane.fold_tallies()'));

const step = fc.oneof(
  { arbitrary: put, weight: 5 },
  { arbitrary: take, weight: 5 },
  { arbitrary: complete, weight: 3 },
  { arbitrary: release, weight: 3 },
  { arbitrary: lapse, weight: 3 },
  ...[giveBack, heartbeat, cancel, prioritise, replay, grow, expire, fold].map((arbitrary) => ({
    arbitrary,
    weight: 1,
  })),
);

/** Any of the above in a transaction whose session is killed before it commits. */
const crash = fc.array(step, { minLength: 1, maxLength: 3 }).map(
  (steps): Act => ({
    title: `crash of ${steps.map(({ title }) => title).join(', ')}`,
    async run(model, on) {
      await on.run('begin');
      const copy = structuredClone(model);
      for (const { run } of steps) await run(copy, on);
      const gone = new Promise<void>((resolve) => on.client.once('end', () => resolve()));
      on.client.on('error', () => {});
      await db.run('select pg_terminate_backend($1, 5000)', [on.pid]);
      await gone;
      session = await database.open();
    },
  }),
);

/** Everything that the tables say of the run's tasks is what the model says. */
async function check(model: Model): Promise<void> {
  const rows = await db.rows<{ id: bigint; places: string[] | null; history: number; status: string }>(
    `select t.id, tasklane.task_state(t.id) as status,
            (select count(*)::int from tasklane.task_attempt h where h.id = t.id) as history,
            (select array_agg(p.place) from (
               select 'waiting ' || w.attempt || ' ' || w.rank as place from tasklane.ready w where w.id = t.id
               union all select 'running ' || u.attempt || ' ' || u.rank from tasklane.running u where u.id = t.id
               union all select 'deferred ' || d.attempt || ' ' || d.rank from tasklane.deferred d where d.id = t.id
               union all select r.outcome || ' ' || r.attempt from tasklane.result r where r.id = t.id) p) as places
     from tasklane.task t where t.tenant_id = any($1) order by t.id`,
    [model.tenants],
  );
  assert.deepEqual(
    rows,
    [...model.tasks]
      .sort((x, y) => (x.id < y.id ? -1 : 1))
      .map((task) => ({
        id: task.id,
        status: task.state,
        history: task.history,
        places: [`${task.state} ${task.attempt}${isLive(task) ? ` ${task.rank}` : ''}`],
      })),
  );
  const counts = await db.rows(
    `select s.queue, s.level::int, s.waiting::int, s.deferred::int, s.running::int, s.total_put_cnt::int - s.total_completed_cnt::int as live
     from tasklane.queue_stats s where s.queue = any($1) order by 1, 2`,
    [model.queues.map((queue) => queue.name)],
  );
  for (const { queue, level, ...count } of counts) {
    const mine = model.tasks.filter((task) => task.queue.name === queue && task.level === level && isLive(task));
    const of = (state: string) => mine.filter((task) => task.state === state).length;
    const expected = { waiting: of('waiting'), deferred: of('deferred'), running: of('running'), live: mine.length };
    assert.deepEqual(count, expected);
  }
  for (const queue of model.queues) assert.ok(running(model, queue) <= (queue.max_running ?? Infinity));
  for (const tenant of model.tenants)
    assert.equal(
      await db.value<bigint>(
        `select n.put_count - n.ended_count + (select coalesce(sum(y.put_count - y.ended_count), 0)
         from tasklane.lane_tally y where y.tenant_id = n.tenant_id)::bigint from tasklane.tenant n where tenant_id = $1`,
        [tenant],
      ),
      BigInt(model.tasks.filter((task) => task.tenant === tenant && isLive(task)).length),
    );
}

async function begin(settings: Omit<Queue, 'name'>[]): Promise<Model> {
  const queues = settings.map((rest) => ({ name: database.name(), ...rest }));
  for (const { name, ages, ...rest } of queues) {
    await db.register(name, undefined, { ...rest, retry: { initial_seconds: 10, jitter: false } });
    await db.run('update tasklane.queue set aging_seconds = $2 where queue = $1', [name, ages ? 60 : 0]);
  }
  const tenants: number[] = [];
  for (let n = 0; n < 2; n++)
    tenants.push(
      await db.value("insert into tasklane.tenant (tenant, callback_secret) values ($1, '') returning tenant_id", [
        database.name(),
      ]),
    );
  return { queues, tenants, tasks: [], keys: new Map() };
}

test('whatever is done to tasks, in whatever order and with whatever crashes, they are where the model says', {
  timeout: Math.max(110_000, RUNS * 5000),
}, async (t) => {
  t.diagnostic(`MODEL_SEED=${SEED}`);
  const settings = fc.record({
    max_attempts: fc.integer({ min: 1, max: 3 }),
    max_running: fc.constantFrom(null, null, 1, 2),
    max_depth: fc.constantFrom(null, null, 4),
    ages: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(settings, { minLength: 3, maxLength: 3 }),
      fc.array(fc.oneof({ arbitrary: step, weight: 12 }, { arbitrary: crash, weight: 1 }), {
        minLength: 10,
        maxLength: 40,
        size: 'max',
      }),
      async (queues, steps) => {
        const model = await begin(queues);
        const done: string[] = [];
        for (const { title, run } of steps) {
          done.push(title);
          try {
            await run(model, session);
            await check(model);
          } catch (error) {
            throw new Error(`after\n${done.join('\n')}`, { cause: error });
          }
        }
        await db.run('select tasklane.cancel_tasks($1)', [ids(model.tasks)]);
      },
    ),
    // Shrinking repeats the run hundreds of times.
    { numRuns: RUNS, seed: SEED, endOnFailure: process.env.MODEL_SHRINK === undefined },
  );
});
