import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { hold, type Session, testDatabase, untilBlocked } from '../support/sql.ts';

const database = await testDatabase();
const [db, a, b] = (await Promise.all([database.open(), database.open(), database.open()])) as [
  Session,
  Session,
  Session,
];

let workers = 0;
/** A worker's first word; gives its id. */
async function hello(name: string, host: string): Promise<string> {
  const id = `w${++workers}`;
  await db.rows('select * from tasklane.see_workers(array[$1], array[$2], array[null], array[null], array[$3])', [
    id,
    name,
    host,
  ]);
  return id;
}
type Row = { outcome: string; id: bigint | null; lane: string | null; limited: boolean | null };
const end = (id: string) => (session: Session) =>
  session.rows<Row>('select * from tasklane.end_predecessors(array[$1])', [id]);
const outcomes = (rows: Row[]) => rows.map(({ outcome }) => outcome).sort();

/** Running tasks of a worker, in a queue of their own. */
async function held(worker: string, count = 1, settings = {}): Promise<bigint[]> {
  const queue = await db.register(database.name(), undefined, settings);
  await db.put(Array.from({ length: count }, () => ({ queue })));
  const taken = await db.take([`${queue}:0`], { size: count, workers: [worker], leases: [3600] });
  return taken.map(({ id }) => id);
}
const states = (ids: bigint[]) => Promise.all(ids.map((id) => db.state(id)));

describe('a worker that is new', () => {
  test('ends the one that had its name on its host, whose tasks go back as after a lapse', async () => {
    const old = await hello('gpu', 'one');
    const [waits] = (await held(old, 1)) as [bigint];
    const [dies] = (await held(old, 1, { max_attempts: 1, max_running: 3 })) as [bigint];
    const [late] = (await held(old, 1)) as [bigint];
    await db.age([late]);
    const rows = await end(await hello('gpu', 'one'))(db);
    assert.deepEqual(outcomes(rows), ['dead', 'expired', 'freed', 'freed', 'freed', 'waiting']);
    assert.equal(rows.filter(({ outcome, limited }) => outcome === 'freed' && limited).length, 1);
    assert.deepEqual(await states([waits, dies, late]), ['waiting', 'dead', 'expired']);
    assert.deepEqual(
      await db.rows('select attempt, worker, reason from tasklane.task_attempt where id = any($1) order by id', [
        [waits, dies, late],
      ]),
      [waits, dies].map(() => ({ attempt: 1, worker: old, reason: 'worker restarted' })),
    );
    assert.equal(await db.value('select attempt from tasklane.ready where id = $1', [waits]), 1, 'the attempt counts');
    assert.equal(await db.value('select state from tasklane.worker_status where worker = $1', [old]), 'stopped');
  });

  test('ends it once, and a late word of it is refused', async () => {
    const old = await hello('late', 'one');
    const [id] = (await held(old)) as [bigint];
    const young = await hello('late', 'one');
    await end(young)(db);
    assert.deepEqual(await end(young)(db), []);
    assert.deepEqual(await end(old)(db), [], 'the older one ends nobody');
    const another = await hello('late', 'one');
    await db.run("update tasklane.worker set first_seen = first_seen - interval '2 minutes' where name = 'late'");
    assert.deepEqual(await end(another)(db), [], 'it is not new any more');
    assert.deepEqual(await db.verdicts([{ id, attempt: 1 }]), ['waiting']);
    assert.deepEqual(
      (await db.heartbeat([{ id, attempt: 1 }])).map(({ verdict }) => verdict),
      ['lost'],
    );
    assert.equal((await db.release([{ id, attempt: 1 }]))[0]?.lane, null);
  });

  test('ends nobody of another name or host, nor one without, nor a younger one', async () => {
    const others = await Promise.all([
      hello('same', 'other'),
      hello('other', 'same'),
      hello('', 'same'),
      hello('', ''),
    ]);
    const ids = (await Promise.all(others.map((id) => held(id)))).flat();
    const one = await hello('same', 'same');
    const nameless = [await hello('', 'same'), await hello('', '')];
    const younger = await hello('same', 'same');
    ids.push(...(await held(younger)));
    for (const id of [one, ...nameless]) assert.deepEqual(await end(id)(db), []);
    assert.deepEqual(new Set(await states(ids)), new Set(['running']));
  });

  test('tells every server which attempts are gone, in messages that NOTIFY can carry', async () => {
    const old = await hello('n', 'one');
    const wordy = '\u0001'.repeat(200);
    await db.run('update tasklane.worker set worker = $2 where worker = $1', [old, wordy]);
    const ids = await held(wordy, 40);
    const heard: string[] = [];
    a.client.on('notification', ({ payload }) => heard.push(payload ?? ''));
    await a.run('listen tasklane');
    await end(await hello('n', 'one'))(db);
    await a.run('unlisten tasklane');
    const gone = heard.flatMap((text) => JSON.parse(text).gone ?? []);
    assert.ok(heard.length > 1);
    assert.deepEqual(
      gone.map(([worker, , attempt]: [string, string, number]) => [worker, attempt]),
      ids.map(() => [wordy, 1]),
    );
    const told = gone.map(([, taskId]: [string, string]) => taskId);
    const parsed = await db.value<bigint[]>('select array_agg(tasklane.parse_task_id(t)) from unnest($1::text[]) t', [
      told,
    ]);
    assert.deepEqual([...parsed].sort(), [...ids].sort());
  });
});

describe('the end of a predecessor', () => {
  const restarted = async () => {
    const name = database.name();
    const old = await hello(name, 'one');
    const [id] = (await held(old)) as [bigint];
    return { id, young: await hello(name, 'one') };
  };
  /** `first` in a transaction that commits when `second` waits for it. */
  const inTurn = async <First, Second>(
    first: (session: Session) => Promise<First>,
    second: (session: Session) => Promise<Second>,
  ): Promise<[First, Second]> => {
    const [one, finish] = await hold(a, () => first(a));
    const two = second(b);
    await untilBlocked(db, b);
    await finish('commit');
    return [one, await two];
  };
  const complete = (id: bigint) => (session: Session) => session.verdicts([{ id, attempt: 1 }]);
  const heartbeat = (id: bigint) => async (session: Session) =>
    (await session.heartbeat([{ id, attempt: 1 }])).map(({ verdict }) => verdict);
  const endOf = (id: string) => async (session: Session) => outcomes(await end(id)(session));

  test('waits for an answer that is being accepted, which stays; one that meets it is refused', async () => {
    const first = await restarted();
    assert.deepEqual(await inTurn(complete(first.id), endOf(first.young)), [['completed'], []]);
    assert.equal(await db.state(first.id), 'succeeded');
    const second = await restarted();
    assert.deepEqual(await inTurn(endOf(second.young), complete(second.id)), [['freed', 'waiting'], ['waiting']]);
    assert.equal(await db.state(second.id), 'waiting');
  });

  test('waits for a late heartbeat and takes the task all the same; one that meets it is lost', async () => {
    const first = await restarted();
    assert.deepEqual(await inTurn(heartbeat(first.id), endOf(first.young)), [['extended'], ['freed', 'waiting']]);
    const second = await restarted();
    assert.deepEqual(await inTurn(endOf(second.young), heartbeat(second.id)), [['freed', 'waiting'], ['lost']]);
  });

  test('at two servers at once is one', async () => {
    const { id, young } = await restarted();
    assert.deepEqual(await inTurn(endOf(young), endOf(young)), [['freed', 'waiting'], []]);
    assert.equal(await db.value('select count(*)::int from tasklane.task_attempt where id = $1', [id]), 1);
  });
});
