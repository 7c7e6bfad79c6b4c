import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Session, testDatabase } from '../support/sql.ts';

const database = await testDatabase();
const db = await database.open();
const [a, b, c] = await Promise.all([database.open(), database.open(), database.open()]);

type Row = { number: bigint; id: bigint; task_id: string | null; type: string; attempt: number };

const record = (session: Session, ids: bigint[], attempt = 0, type = 'submitted', data: string | null = null) =>
  session.run('select tasklane.record_events($1, $2, $3, $4, $5)', [
    type,
    'waiting',
    ids,
    ids.map(() => attempt),
    ids.map(() => data),
  ]);
const number = async (session: Session, from = 0, limit = 5000) =>
  (
    await session.rows<{ moved: number; last_seq: bigint | null }>('select * from tasklane.number_events($1, $2)', [
      from,
      limit,
    ])
  )[0];
const read = (after: bigint | number, limit = 1000, ...filter: unknown[]) =>
  db.rows<Row>(`select * from tasklane.read_feed($1, $2${filter.map((_, index) => `, $${index + 3}`).join('')})`, [
    after,
    limit,
    ...filter,
  ]);
const open = (keep = 60) => db.value<bigint>('select tasklane.open_feed($1)', [keep]);
const recording = () => db.value<boolean>('select tasklane.recording()');

async function tasks(count: number, more: object = {}): Promise<bigint[]> {
  const queue = await db.register(database.name());
  return (await db.put(Array.from({ length: count }, () => ({ queue, ...more })))).map((row) => row.id);
}

test('nothing is recorded until a feed opens, and then for as long as it says', async () => {
  assert.equal(await recording(), false);
  await open(60);
  assert.equal(await recording(), true);
  const until = () =>
    db.value<number>('select extract(epoch from recording_until - now())::float8 from tasklane.event_feed');
  assert.ok(Math.abs((await until()) - 60) < 5);
  await db.run("update tasklane.event_feed set recording_until = now() - interval '1 second'");
  assert.equal(await recording(), false);
});

test('the row that says whether to record is written only when that moves it by more than a tenth', async () => {
  await db.run("update tasklane.event_feed set recording_until = now() + interval '95 seconds'");
  const version = () => db.value<string>('select xmin::text from tasklane.event_feed');
  const before = await version();
  await open(100);
  await open(60);
  assert.equal(await version(), before);
  await open(200);
  assert.notEqual(await version(), before);
});

test('a feed that opens starts after all that is staged, and before all that comes', async () => {
  const [id] = await tasks(1);
  await record(db, [id as bigint], 1);
  const start = await open();
  await record(db, [id as bigint], 2);
  await number(db);
  assert.deepEqual(
    (await read(start)).map((row) => row.attempt),
    [2],
  );
  assert.equal(await open(), start + 1n);
});

test('a feed still starts after the last number when all events have been deleted', async () => {
  const [id] = await tasks(1);
  await record(db, [id as bigint]);
  const start = await open();
  await db.run('delete from tasklane.event');
  assert.equal(await open(), start);
});

describe('numbering', () => {
  test('a transaction that is held open does not stop the others, and its events come last', async () => {
    const [early, late] = (await tasks(2)) as [bigint, bigint];
    const start = await open();
    await a.run('begin');
    await record(a, [early]);
    await record(b, [late]);
    assert.equal((await number(db))?.moved, 1);
    assert.deepEqual(
      (await read(start)).map((row) => row.id),
      [late],
    );
    await a.run('commit');
    assert.equal((await number(db))?.moved, 1);
    assert.deepEqual(
      (await read(start)).map((row) => row.id),
      [late, early],
    );
  });

  test('is done by one at a time: a second caller goes home, and what the first undoes is numbered later', async () => {
    const [id] = await tasks(1);
    const start = await open();
    await record(db, [id as bigint]);
    await a.run('begin');
    assert.equal((await number(a))?.moved, 1);
    assert.equal(await number(b), undefined);
    assert.deepEqual(await read(start), []);
    await a.run('rollback');
    assert.equal((await number(b))?.moved, 1);
    assert.equal((await read(start)).length, 1);
  });

  test('goes by the order of staging, so many at a time, and tells where it came to', async () => {
    const ids = await tasks(7);
    const start = await open();
    for (const id of ids) await record(db, [id]);
    const moved = [await number(db, 0, 3), await number(db, 0, 3), await number(db, 0, 3), await number(db, 0, 3)];
    assert.deepEqual(
      moved.map((one) => one?.moved),
      [3, 3, 1, 0],
    );
    const last = await db.value<bigint>('select last_value from tasklane.event_stage_seq_seq');
    assert.deepEqual(
      moved.map((one) => one?.last_seq),
      [last - 4n, last - 1n, last, null],
    );
    assert.deepEqual(
      (await read(start)).map((row) => row.id),
      ids,
    );
  });

  test('from a place on leaves what is below to a later look', async () => {
    const ids = await tasks(2);
    const start = await open();
    for (const id of ids) await record(db, [id]);
    const last = await db.value<bigint>('select last_value from tasklane.event_stage_seq_seq');
    assert.equal((await number(db, Number(last)))?.moved, 1);
    assert.equal((await number(db))?.moved, 1);
    assert.deepEqual(
      (await read(start)).map((row) => row.id),
      [...ids].reverse(),
    );
  });

  test('under many writers and numberers loses nothing, repeats nothing, and keeps the order of each task', async () => {
    const writers = await Promise.all(Array.from({ length: 8 }, () => database.open()));
    const numberers = [a, b, c];
    const owned: bigint[][] = [];
    for (const _ of writers) owned.push(await tasks(5));
    const rounds = 60;
    const start = await open();
    let writing = true;
    const seen: Row[] = [];
    const reading = (async () => {
      for (let last = start; ; ) {
        const over = !writing;
        const rows = await read(last, 100);
        seen.push(...rows);
        last = rows.at(-1)?.number ?? last;
        if (over && rows.length === 0) return;
      }
    })();
    const numbering = numberers.map(async (session) => {
      while (writing) await number(session, 0, 50);
    });
    await Promise.all(
      writers.map(async (session, nth) => {
        const ids = owned[nth] as bigint[];
        for (let n = 1; n <= rounds; n++) {
          // Some in one transaction, some in several, some undone: they commit in another order than they stage.
          await session.run('begin');
          await record(session, ids.slice(0, 3), n);
          if (n % 3 === nth % 3) await session.value('select count(*) from tasklane.task');
          await record(session, ids.slice(3), n);
          await session.run('commit');
          if (n % 10 === 0) {
            await session.run('begin');
            await record(session, ids, 1000);
            await session.run('rollback');
          }
        }
      }),
    );
    while ((await number(writers[0] as Session))?.moved !== 0);
    writing = false;
    await Promise.all([...numbering, reading]);
    assert.equal(seen.length, writers.length * 5 * rounds);
    assert.equal(new Set(seen.map((row) => row.number)).size, seen.length);
    for (const id of owned.flat())
      assert.deepEqual(
        seen.filter((row) => row.id === id).map((row) => row.attempt),
        Array.from({ length: rounds }, (_, n) => n + 1),
      );
  });

  test('touches few buffers from a hint on, however many dead rows an old snapshot holds', async () => {
    const ids = await tasks(1000);
    await db.run('alter table tasklane.event_stage set (autovacuum_enabled = off)');
    await c.run('begin isolation level repeatable read');
    await c.value('select count(*) from tasklane.lane');
    for (let n = 0; n < 20; n++) await record(db, ids);
    let last = 0n;
    for (let one = await number(db); one?.moved !== 0; one = await number(db)) last = one?.last_seq ?? last;
    const touched = async (from: bigint | number) => {
      const [explained] = await db.value<{ Plan: Record<string, number> }[]>(
        'explain (analyze, buffers, timing off, format json) select * from tasklane.number_events($1)',
        [from],
      );
      return (explained?.Plan['Shared Hit Blocks'] ?? 0) + (explained?.Plan['Shared Read Blocks'] ?? 0);
    };
    await touched(last);
    const hinted = await touched(last - 100n);
    assert.ok(hinted < 150, `${hinted} buffers`);
    assert.ok((await touched(0)) > 10 * hinted, 'the dead rows were not there');
    await c.run('rollback');
  });
});

describe('reading the feed', () => {
  test('gives what matches all filters, and at last how far it looked', async () => {
    const [mine] = (await tasks(1)) as [bigint];
    const [other] = (await tasks(1)) as [bigint];
    const queue = await db.value<string>('select queue from tasklane.task_status where id = $1', [mine]);
    const start = await open();
    await record(db, [mine], 0, 'submitted');
    await record(db, [mine], 1, 'started');
    await record(db, [other], 1, 'started');
    await number(db);
    const types = async (...filter: unknown[]) =>
      (await read(start, 1000, ...filter)).map((row) => (row.task_id === null ? null : row.type));
    assert.deepEqual(await types(), ['submitted', 'started', 'started']);
    assert.deepEqual(await types(1), ['submitted', 'started', 'started']);
    assert.deepEqual(await types(2), [null]);
    assert.deepEqual(await types(null, ['started']), ['started', 'started']);
    assert.deepEqual(await types(null, ['submitted', 'dead']), ['submitted', null]);
    assert.deepEqual(await types(null, null, queue), ['submitted', 'started', null]);
    assert.deepEqual(await types(null, null, null, mine), ['submitted', 'started', null]);
    assert.deepEqual(await types(null, ['started'], queue, mine), ['started', null]);
    assert.deepEqual(await types(null, null, null, null, 'BATCH-0-1-250101000000-0000-000007'), [null]);
    await db.run('update tasklane.task set batch_id = 7 where id = $1', [other]);
    assert.deepEqual(await types(null, null, null, null, 'BATCH-0-1-250101000000-0000-000007'), ['started']);
    assert.deepEqual(await read(start + 3n), []);
  });

  test('an event whose task is gone is left out', async () => {
    const ids = (await tasks(2)) as [bigint, bigint];
    const start = await open();
    await record(db, ids);
    await number(db);
    await db.run('delete from tasklane.task where id = $1', [ids[0]]);
    assert.deepEqual(
      (await read(start)).map((row) => row.id),
      [ids[1]],
    );
    await db.run('delete from tasklane.task where id = $1', [ids[1]]);
    assert.deepEqual(
      (await read(start)).map((row) => [row.number, row.task_id]),
      [[start + 2n, null]],
    );
  });

  test('ends before it carries more than a megabyte, with one event at least', async () => {
    const ids = await tasks(1);
    const start = await open();
    const sizes = [2_000_000, 400_000, 400_000, 400_000];
    for (const size of sizes) await record(db, ids, 1, 'progress', JSON.stringify('x'.repeat(size)));
    await number(db);
    const counts: number[] = [];
    for (let after = start; ; ) {
      const rows = await read(after);
      if (rows.length === 0) break;
      counts.push(rows.length);
      after = rows.at(-1)?.number ?? after;
    }
    assert.deepEqual(counts, [1, 2, 1]);
  });
});

test('old events are deleted in slices, from the oldest to the first that is young', async () => {
  const ids = await tasks(5);
  const start = await open();
  await db.run('delete from tasklane.event');
  await record(db, ids);
  await number(db);
  await db.run("update tasklane.event set created_at = now() - interval '2 hours' where number <> $1", [start + 4n]);
  const remove = (after: bigint) => db.value<bigint | null>('select tasklane.delete_events($1, 3600, 2)', [after]);
  assert.equal(await remove(0n), start + 2n);
  assert.equal(await remove(start + 2n), start + 3n);
  assert.equal(await remove(start + 3n), null);
  assert.deepEqual(
    (await read(0)).map((row) => row.number),
    [start + 4n, start + 5n],
  );
});
