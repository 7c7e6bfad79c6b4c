import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { batchesOf } from '../support/batches.ts';
import { testDatabase } from '../support/sql.ts';

const database = await testDatabase();
const db = await database.open();
const batches = batchesOf(db);

let queue: string;
let lane: string;
beforeEach(async () => {
  queue = await db.register(database.name());
  lane = `${queue}:1`;
});
const many = (count: number, model = queue) => Array.from({ length: count }, () => model);
const finish = async (id: bigint) => {
  await batches.fold();
  await batches.claim();
  await batches.write(id);
};
describe('lines in ready', () => {
  test('are a window of the batch, topped up when half of it has been taken', async () => {
    await batches.start(many(1000));
    assert.equal((await batches.topUp()).length, 128);
    assert.equal((await batches.topUp()).length, 0, 'nothing has been taken');
    const taken = (await db.take([lane], { size: 63 })) as unknown as { tops_up: number | null }[];
    assert.ok(taken.every((task) => task.tops_up === null));
    const [next] = (await db.take([lane], { size: 1 })) as unknown as { tops_up: number | null }[];
    assert.ok(next?.tops_up, 'the 64th says so');
    assert.equal((await batches.topUp()).length, 256, 'twice as many, since they went within a second');
  });

  test('of two batches come in equal shares, so that neither waits for the other', async () => {
    const big = await batches.start(many(2000));
    const small = await batches.start(many(100));
    const order: bigint[] = [];
    for (;;) {
      await batches.topUp();
      const taken = await db.take([lane], { size: 10 });
      if (taken.length === 0) break;
      const rows = await db.rows<{ batch_id: bigint }>(
        'select t.batch_id from unnest($1::bigint[]) with ordinality u(id, n) join tasklane.task t using (id) order by u.n',
        [taken.map((task) => task.id)],
      );
      order.push(...rows.map((row) => row.batch_id));
    }
    assert.equal(order.length, 2100, 'all lines were handed out');
    assert.equal(order.filter((id) => id === small).length, 100);
    const lastOfSmall = order.lastIndexOf(small);
    assert.ok(lastOfSmall < 400, `the small one was through at ${lastOfSmall}`);
    assert.equal(order.at(-1), big);
  });

  test('of a batch that came later are not passed by for ever by those of older ones', async () => {
    const old = await batches.start(many(3000));
    await batches.topUp();
    const young = await batches.start(many(3000));
    const taken = { [String(old)]: 0, [String(young)]: 0 };
    for (let round = 0; round < 300; round++) {
      await batches.topUp();
      for (const task of (await db.take([lane], { size: 10 })) as unknown as { batch_id: string }[]) {
        const id = String(await db.value<bigint>('select tasklane.parse_batch_id($1)', [task.batch_id]));
        taken[id] = (taken[id] ?? 0) + 1;
      }
    }
    assert.ok((taken[String(young)] ?? 0) > 500, JSON.stringify(taken));
  });

  test('come no faster because those that wait move up or down', async () => {
    await batches.start(many(1000));
    const first = await batches.topUp();
    await db.setPriorities(
      first.map((row) => row.id),
      first.map(() => 10),
    );
    assert.equal((await batches.topUp()).length, 0, 'nothing has been taken');
    await db.take([lane], { size: 128 });
    assert.notEqual((await batches.topUp()).length, 0);
  });

  test('count as waiting in the lane from the start', async () => {
    await batches.start(many(300));
    const waiting = await db.value('select waiting::int from tasklane.queue_stats where queue = $1 and level = 1', [
      queue,
    ]);
    assert.equal(waiting, 300);
  });

  test('leave the room of a queue with max_depth, and of a tenant with max_in_flight, to what is put', async () => {
    await db.run('select tasklane.set_queue($1, $2)', [queue, '{"max_depth": 5}']);
    await db.run(`select tasklane.set_tenant('default', '{"max_in_flight": 5}')`);
    await batches.start(many(50));
    await batches.topUp();
    const puts = await db.tryPut(Array.from({ length: 6 }, () => ({ queue })));
    await db.run(`select tasklane.set_tenant('default', '{"max_in_flight": null}')`);
    assert.deepEqual(
      puts.map((row) => row.code),
      [null, null, null, null, null, 'TL429'],
    );
  });
});

test('a lane that is cleared loses the lines that wait in their batches too, and these batches end', async () => {
  const id = await batches.start(many(300));
  await batches.topUp();
  await batches.work(lane, 5);
  let cleared = 0;
  for (let some = 100; some === 100; ) {
    some = (await db.rows('select * from tasklane.clear_lane($1, 100)', [lane])).length;
    cleared += some;
  }
  assert.equal(cleared, 295);
  await finish(id);
  const done = await batches.progress(id);
  assert.deepEqual([done.status, done.completed, done.failed], ['completed', 5, 295]);
});

describe('a line', () => {
  test('that died is in the error file as attempts_exhausted, and one cancelled alone as request_cancelled', async () => {
    await db.run('select tasklane.set_queue($1, $2)', [queue, '{"max_attempts": 1}']);
    const id = await batches.start(many(2));
    await batches.topUp();
    const [first, second] = await db.take([lane], { size: 2 });
    await db.release([{ id: first?.id as bigint }]);
    await db.cancel([second?.id as bigint]);
    await finish(id);
    const done = await batches.progress(id);
    assert.deepEqual([done.status, done.completed, done.failed, done.output_file_id], ['completed', 0, 2, null]);
    assert.deepEqual(
      (await batches.lines(id, 'error_file')).map((line) => line.error.code),
      ['attempts_exhausted', 'request_cancelled'],
    );
  });

  test('that died is not replayed by itself, nor purged', async () => {
    await db.run('select tasklane.set_queue($1, $2)', [queue, '{"max_attempts": 1}']);
    await batches.start(many(1));
    await batches.topUp();
    const task = await db.takeOne([lane]);
    await db.release([{ id: task.id }]);
    assert.deepEqual(
      (await db.replay([task.id])).map((row) => row.refusal),
      ['line'],
    );
    assert.equal(await db.value('select tasklane.purge_dead(null, $1)', [queue]), 0);
  });

  test('stays for as long as its batch has not ended, however old its answer is', async () => {
    await db.run('select tasklane.set_queue($1, $2)', [queue, '{"retention_seconds": 1}']);
    const id = await batches.start(many(2));
    await batches.topUp();
    const removeOld = async () => {
      await db.run("update tasklane.result set completed_at = now() - interval '2 minutes'");
      await db.run('update tasklane.kept set completed_at = (select completed_at from tasklane.result limit 1)');
      await db.run("update tasklane.queue set retained_from = now() - interval '1 hour'");
      await db.run('select tasklane.remove_finished()');
    };
    await batches.work(lane, 1);
    await removeOld();
    await batches.work(lane, 1);
    await removeOld();
    await finish(id);
    assert.equal((await batches.lines(id, 'output_file')).length, 2);
    await removeOld();
    assert.equal(
      await db.value('select count(*)::int from tasklane.task where batch_id = $1', [id]),
      0,
      'and goes afterwards',
    );
  });
});

describe('results', () => {
  test('are numbered as they end, and none is missed by going on from a number', async () => {
    const id = await batches.start(many(10));
    await batches.topUp();
    await batches.work(lane, 3);
    await batches.fold();
    await batches.work(lane, 4, 400);
    await batches.work(lane, 3);
    await batches.fold();
    const seen: string[] = [];
    let after = 0;
    for (;;) {
      const page = await db.rows<{ place: number; line: string }>('select * from tasklane.batch_results($1, $2, 4)', [
        id,
        after,
      ]);
      if (page.length === 0) break;
      seen.push(...page.map((row) => JSON.parse(row.line).custom_id));
      after = page.at(-1)?.place as number;
    }
    assert.equal(after, 10);
    assert.deepEqual(seen.toSorted(), Array.from({ length: 10 }, (_, n) => `r${n}`).toSorted());
  });

  test('are all there although a page has room for so many bytes, and at least one', async () => {
    const id = await batches.start(many(5));
    await batches.topUp();
    await batches.work(lane, 5, 200, JSON.stringify('x'.repeat(1000)));
    await batches.fold();
    const page = async (after: number, bytes: number) => {
      const rows = await db.rows<{ place: number; line: string | null; more: boolean }>(
        'select * from tasklane.batch_results($1, $2, 4, $3)',
        [id, after, bytes],
      );
      assert.ok(rows.every((row) => row.more === rows[0]?.more));
      return [rows.map((row) => row.line && JSON.parse(row.line).custom_id), rows.at(-1)?.place, rows[0]?.more];
    };
    assert.deepEqual(await page(0, 1), [['r0'], 1, true]);
    assert.deepEqual(await page(1, 2700), [['r1', 'r2'], 3, true]);
    assert.deepEqual(await page(3, 1), [['r3'], 4, true]);
    assert.deepEqual(await page(4, 1), [['r4'], 5, false]);
    assert.deepEqual(await page(0, 1e6), [['r0', 'r1', 'r2', 'r3'], 4, true]);
    assert.deepEqual(await page(5, 1e6), [[], undefined, undefined]);
    const gone = await db.value<bigint[]>(
      `select array_agg(id) from tasklane.task where batch_id = $1 and custom_id in ('r0', 'r2', 'r4')`,
      [id],
    );
    await db.run('delete from tasklane.result where id = any ($1)', [gone]);
    assert.deepEqual(await page(0, 1), [[null, 'r1', null], 3, true]);
    assert.deepEqual(await page(3, 1), [['r3', null], 5, false]);
    assert.deepEqual(await page(4, 1), [[null], 5, false]);
  });

  test('that failed are copied as input lines of another batch', async () => {
    const id = await batches.start(many(6));
    await batches.topUp();
    await batches.work(lane, 4);
    await batches.work(lane, 2, 500);
    await finish(id);
    const file = await db.value<bigint>("select tasklane.begin_file(1, 'retry.jsonl')");
    let after: bigint | null = 0n;
    while (after !== null)
      after = await db.value('select tasklane.copy_failed_lines($1, $2, $3, 4)', [id, file, after]);
    const text = await db.value<Buffer>(
      'select string_agg(bytes, null order by at) from tasklane.file_chunk where file_number = $1',
      [file],
    );
    const lines = text
      .toString()
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    assert.deepEqual(
      lines.map((line) => [line.custom_id, line.method, line.url, line.body.n]),
      [
        ['r4', 'POST', '/v1/chat/completions', 4],
        ['r5', 'POST', '/v1/chat/completions', 5],
      ],
    );
  });
});

test('the order in which lines ended is forgotten two months after their batch was made', async () => {
  await db.run("insert into tasklane.batch_done values (tasklane.first_id_of(now() - interval '61 days'), 1, '{1}')");
  await db.run("insert into tasklane.batch_done values (tasklane.first_id_of(now() - interval '59 days'), 1, '{1}')");
  await db.run('select tasklane.remove_leftovers()');
  const left = await db.value<number>("select count(*)::int from tasklane.batch_done where ids = '{1}'");
  assert.equal(left, 1);
});
