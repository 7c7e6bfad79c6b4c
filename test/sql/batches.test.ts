import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { batchesOf } from '../support/batches.ts';
import { code, hold, type Session, testDatabase, untilBlocked } from '../support/sql.ts';

const database = await testDatabase();
const [db, other, watcher] = (await Promise.all([database.open(), database.open(), database.open()])) as [
  Session,
  Session,
  Session,
];
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
describe('a batch', () => {
  test('goes from validating to completed, and its files have every line in the order of the input', async () => {
    const id = await batches.start(many(5));
    assert.equal((await batches.progress(id)).status, 'in_progress');
    await batches.topUp();
    assert.deepEqual(await batches.work(lane, 2), ['r0', 'r1']);
    assert.deepEqual(await batches.work(lane, 1, 400, '{"error":{"message":"no"}}'), ['r2']);
    const half = await batches.progress(id);
    assert.deepEqual(
      [half.total, half.completed, half.failed, half.open],
      [5, 2, 1, 2],
      'true before anything is folded',
    );
    await batches.work(lane, 5);
    await finish(id);
    const done = await batches.progress(id);
    assert.equal(done.status, 'completed');
    assert.deepEqual([done.total, done.completed, done.failed], [5, 4, 1]);
    assert.ok(done.finalizing_at && done.completed_at && done.in_progress_at);
    const output = await batches.lines(id, 'output_file');
    assert.deepEqual(
      output.map((line) => line.custom_id),
      ['r0', 'r1', 'r3', 'r4'],
    );
    assert.match(output[0].id, /^batch_req_[0-9a-f]{32}$/);
    assert.deepEqual(output[0].response.body, { ok: true });
    assert.equal(output[0].error, null);
    const [error] = await batches.lines(id, 'error_file');
    assert.equal(error.custom_id, 'r2');
    assert.deepEqual(
      [error.response.status_code, error.response.body, error.error],
      [400, { error: { message: 'no' } }, null],
    );
  });

  test('is of one model or of several, each in the lane of its queue', async () => {
    const second = await db.register(database.name());
    const id = await batches.start([queue, second, queue, second]);
    assert.equal((await batches.progress(id)).model, null);
    await batches.topUp();
    assert.deepEqual(await batches.work(`${second}:1`, 10), ['r1', 'r3']);
    assert.deepEqual(await batches.work(lane, 10), ['r0', 'r2']);
    await finish(id);
    assert.deepEqual(
      (await batches.lines(id, 'output_file')).map((line) => line.custom_id),
      ['r0', 'r1', 'r2', 'r3'],
    );
  });

  test('sums the usage of its answers, of both kinds, and passes over what can not be read', async () => {
    const id = await batches.start(many(4));
    await batches.topUp();
    const chat = {
      prompt_tokens: 9,
      completion_tokens: 2,
      total_tokens: 11,
      prompt_tokens_details: { cached_tokens: 4 },
    };
    const response = {
      input_tokens: 5,
      output_tokens: 7,
      total_tokens: 12,
      output_tokens_details: { reasoning_tokens: 3 },
    };
    await batches.work(lane, 1, 200, JSON.stringify({ usage: chat }));
    await batches.work(lane, 1, 200, JSON.stringify({ usage: response }));
    await batches.work(lane, 1, 200, '{"text":"\\u0000","usage":{"total_tokens":1000}}');
    await batches.work(lane, 1, 200, '{"usage":{"total_tokens":"many"}}');
    await finish(id);
    assert.deepEqual((await batches.progress(id)).usage.map(Number), [14, 4, 9, 3, 1023]);
  });

  test('keeps each line on one line whatever white space the worker left in its answer', async () => {
    const id = await batches.start(many(1));
    await batches.topUp();
    await batches.work(lane, 1, 200, '{\n  "text": "a\\nb"\r\n}');
    await finish(id);
    assert.deepEqual(
      (await batches.lines(id, 'output_file')).map((line) => line.response.body),
      [{ text: 'a\nb' }],
    );
  });

  test('expands from where it stands only, so that no line comes twice', async () => {
    const file = await batches.makeFile('{}\n');
    const { batch_id: id } = await batches.create(file.id);
    await db.run('select tasklane.start_batch($1, $2, $3)', [id, [queue], [4]]);
    assert.equal((await batches.expand(id, 0, 2, many(2), false))?.length, 1);
    assert.equal(await batches.expand(id, 0, 2, many(2), false), null, 'another server was as far already');
    assert.equal((await batches.expand(id, 2, 4, many(2), true))?.length, 1);
    assert.equal(await batches.expand(id, 4, 6, many(2), true), null, 'it is expanded');
    assert.equal(await db.value('select count(*)::int from tasklane.task where batch_id = $1', [id]), 4);
  });

  test('that ends before its last line is expanded is not taken for ended', async () => {
    const file = await batches.makeFile('{}\n');
    const { batch_id: id } = await batches.create(file.id);
    await db.run('select tasklane.start_batch($1, $2, $3)', [id, [queue], [2]]);
    await batches.expand(id, 0, 1, many(1), false);
    await batches.topUp();
    await batches.work(lane, 5);
    assert.deepEqual(
      (await batches.fold()).map((row) => row.ended),
      [false],
    );
    await batches.expand(id, 1, 2, many(1), true);
    await batches.topUp();
    await batches.work(lane, 5);
    await finish(id);
    assert.equal((await batches.progress(id)).status, 'completed');
  });
});

describe('a cancelled batch', () => {
  test('keeps what was answered, and has a line for everything else', async () => {
    const id = await batches.start(many(500));
    await batches.topUp();
    await batches.work(lane, 3);
    await batches.work(lane, 1, 500);
    await db.take([lane], { size: 2 });
    await db.run('select tasklane.cancel_batch($1)', [id]);
    await db.run('select tasklane.cancel_batch($1)', [id]);
    await batches.endLines(id, 100);
    await finish(id);
    const done = await batches.progress(id);
    assert.equal(done.status, 'cancelled');
    assert.deepEqual([done.total, done.completed, done.failed], [500, 3, 1], 'what never ran has not failed');
    const errors = await batches.lines(id, 'error_file');
    assert.equal((await batches.lines(id, 'output_file')).length + errors.length, 500);
    assert.equal(errors.filter((line) => line.error?.code === 'batch_cancelled').length, 496);
    assert.deepEqual(await batches.work(lane, 10), [], 'nothing of it is left to take');
    assert.equal(
      await db.value('select waiting::int from tasklane.queue_stats where queue = $1 and level = 1', [queue]),
      0,
    );
    await assert.rejects(db.run('select tasklane.pause_batch($1, true)', [id]), code('TL409'));
  });

  test('while its lines are looked at has none, and no files', async () => {
    const file = await batches.makeFile('{}\n');
    const { batch_id: id } = await batches.create(file.id);
    await db.run('select tasklane.cancel_batch($1)', [id]);
    assert.equal(await db.value('select tasklane.start_batch($1, $2, $3)', [id, [queue], [1]]), false);
    await batches.write(id);
    const done = await batches.progress(id);
    assert.deepEqual([done.status, done.total, done.output_file_id, done.error_file_id], ['cancelled', 0, null, null]);
  });

  test('while its lines are still made is expanded to the end, and has a line for each', async () => {
    const file = await batches.makeFile('{}\n');
    const { batch_id: id } = await batches.create(file.id);
    await db.value('select tasklane.start_batch($1, $2, $3)', [id, [queue], [30]]);
    await batches.expand(id, 0, 10, many(10), false);
    await batches.topUp();
    await batches.work(lane, 2);
    await db.run('select tasklane.cancel_batch($1)', [id]);
    assert.equal(await db.value('select tasklane.write_batch($1)', [id]), null, 'there is nothing to write yet');
    await batches.endLines(id, 7);
    await batches.fold();
    await batches.write(id);
    assert.equal((await batches.progress(id)).status, 'cancelling');
    await batches.expand(id, 10, 30, many(20), true);
    assert.deepEqual(await batches.topUp(), []);
    await batches.endLines(id, 7);
    await finish(id);
    const done = await batches.progress(id);
    assert.deepEqual([done.status, done.total, done.completed, done.failed], ['cancelled', 30, 2, 0]);
    const lines = [...(await batches.lines(id, 'output_file')), ...(await batches.lines(id, 'error_file'))];
    assert.equal(new Set(lines.map((line) => line.custom_id)).size, 30);
    assert.equal(lines.length, 30);
  });

  test('while its files are written loses no answer', async () => {
    const id = await batches.start(many(10));
    await batches.topUp();
    await batches.work(lane, 10);
    await batches.fold();
    await batches.claim();
    assert.equal(await db.value('select tasklane.write_batch($1, 4)', [id]), true);
    await db.run('select tasklane.cancel_batch($1)', [id]);
    assert.equal((await batches.progress(id)).status, 'cancelling');
    await batches.write(id);
    const done = await batches.progress(id);
    assert.deepEqual([done.status, done.completed, done.error_file_id], ['cancelled', 10, null]);
    assert.equal((await batches.lines(id, 'output_file')).length, 10);
  });

  test('can not be cancelled once it has ended', async () => {
    const id = await batches.start(many(1));
    await batches.topUp();
    await batches.work(lane, 1);
    await finish(id);
    await assert.rejects(
      db.run('select tasklane.cancel_batch($1)', [id]),
      /Cannot cancel a batch with status 'completed'\./,
    );
  });
});

test('a batch whose window is over expires: the rest is in the error file, not among the failed', async () => {
  const id = await batches.start(many(200));
  await batches.topUp();
  await batches.work(lane, 2);
  await db.run('update tasklane.batch set expires_at = now() where batch_id = $1', [id]);
  const ids = await db.value<bigint[]>('select array_agg(id) from tasklane.task where batch_id = $1', [id]);
  await db.age(ids, 'now()');
  const [claimed] = await batches.claim();
  assert.deepEqual([claimed?.status, claimed?.ending], ['finalizing', 'expired']);
  await batches.endLines(id);
  await finish(id);
  const done = await batches.progress(id);
  assert.deepEqual([done.status, done.completed, done.failed], ['expired', 2, 0]);
  assert.ok(done.expired_at);
  const errors = await batches.lines(id, 'error_file');
  assert.equal(errors.length, 198);
  assert.ok(errors.every((line) => line.response === null && line.error.code === 'batch_expired'));
});

test('a batch of which only the deadline ended the last lines has expired, whoever looks at it when', async () => {
  const id = await batches.start(many(3));
  await batches.topUp();
  await batches.work(lane, 2);
  await db.run('update tasklane.batch set expires_at = now() where batch_id = $1', [id]);
  const ids = await db.value<bigint[]>('select array_agg(id) from tasklane.task where batch_id = $1', [id]);
  await db.age(ids);
  await db.rows(`select * from tasklane.withdraw_tasks($1, 'expired')`, [ids]);
  await finish(id);
  const done = await batches.progress(id);
  assert.deepEqual([done.status, done.completed, done.failed], ['expired', 2, 0]);
});

test('a batch whose window is over ends at once, whoever works on it, and is neither begun nor cancelled any more', async () => {
  const { batch_id: id } = await batches.create((await batches.makeFile('{}\n')).id);
  assert.equal(await db.value('select tasklane.touch_batch($1)', [id]), true);
  await db.run('update tasklane.batch set expires_at = now() where batch_id = $1', [id]);
  assert.equal(await db.value('select tasklane.touch_batch($1)', [id]), false, 'its lines are not wanted');
  assert.equal(await db.value('select tasklane.start_batch($1, $2, $3)', [id, [queue], [1]]), false);
  const tooLate = /Cannot cancel a batch with status 'expired'\./;
  await assert.rejects(db.run('select tasklane.cancel_batch($1)', [id]), tooLate);
  const claimed = await db.rows('select batch_id, status, ending from tasklane.claim_batches(null, 60)');
  assert.deepEqual(claimed, [{ batch_id: id, status: 'finalizing', ending: 'expired' }]);
  assert.deepEqual(await db.rows('select from tasklane.claim_batches(null, 60)'), [], 'one server is enough');
  await assert.rejects(db.run('select tasklane.cancel_batch($1)', [id]), tooLate);
  await batches.write(id);
  const done = await batches.progress(id);
  assert.deepEqual([done.status, done.total, done.in_progress_at, done.error_file_id], ['expired', 0, null, null]);
});

test('two servers that end the same batch do not wait for each other', async () => {
  const id = await batches.start(many(2));
  await batches.topUp();
  await batches.work(lane, 2);
  await batches.fold();
  await db.run('select tasklane.cancel_batch($1)', [id]);
  await db.value('select tasklane.write_batch($1)', [id]);
  const [, end] = await hold(watcher, () =>
    watcher.run('select from tasklane.batch where batch_id = $1 for update', [id]),
  );
  const writing = other.value('select tasklane.write_batch($1)', [id]);
  await untilBlocked(watcher, other);
  const ending = batches.endLines(id);
  await Promise.race([ending, untilBlocked(watcher, db)]);
  await end('commit');
  await Promise.all([ending, writing]);
  assert.equal((await batches.progress(id)).status, 'cancelled');
});

test('a batch whose window is over before all its lines are made expires with a line for each, paused or not', async () => {
  const file = await batches.makeFile('{}\n');
  const { batch_id: id } = await batches.create(file.id);
  await db.value('select tasklane.start_batch($1, $2, $3)', [id, [queue], [5]]);
  await batches.expand(id, 0, 2, many(2), false);
  await db.run('select tasklane.pause_batch($1, true)', [id]);
  await db.run('update tasklane.batch set expires_at = now() where batch_id = $1', [id]);
  await batches.claim();
  await batches.expand(id, 2, 5, many(3), true);
  await batches.endLines(id);
  await finish(id);
  const done = await batches.progress(id);
  assert.deepEqual([done.status, done.total, done.completed, done.failed], ['expired', 5, 0, 0]);
  const errors = await batches.lines(id, 'error_file');
  assert.deepEqual(
    errors.map((line) => line.error.code),
    Array.from({ length: 5 }, () => 'batch_expired'),
  );
});

test('a paused batch hands out nothing, and goes on where it was', async () => {
  const id = await batches.start(many(300));
  await batches.topUp();
  await batches.work(lane, 5);
  const [running] = await db.take([lane], { size: 1 });
  await db.run('select tasklane.pause_batch($1, true)', [id]);
  assert.deepEqual(await batches.work(lane, 50), []);
  assert.equal((await batches.topUp()).length, 0);
  assert.deepEqual(await db.verdicts([{ id: running?.id as bigint }]), ['completed'], 'what runs is answered');
  await db.run('select tasklane.pause_batch($1, false)', [id]);
  const seen: string[] = [];
  for (;;) {
    await batches.topUp();
    const done = await batches.work(lane, 50);
    if (done.length === 0) break;
    seen.push(...done);
  }
  assert.deepEqual(
    seen,
    Array.from({ length: 294 }, (_, n) => `r${n + 6}`),
  );
  await finish(id);
  assert.equal((await batches.progress(id)).status, 'completed');
});

describe('a create', () => {
  test('under a key is one batch, another body is refused, and another tenant has keys of its own', async () => {
    const file = await batches.makeFile('{}\n');
    const foreign = await db.value<number>("select tasklane.make_tenant('foreign')");
    const made = await batches.create(file.id, { key: 'k', hash: 'aa' });
    assert.deepEqual(await batches.create(file.id, { key: 'k', hash: 'aa' }), {
      batch_id: made.batch_id,
      repeated: true,
    });
    await assert.rejects(batches.create(file.id, { key: 'k', hash: 'bb' }), code('TL409'));
    await assert.rejects(
      batches.create(file.id, { key: 'k', hash: 'aa', tenant: foreign }),
      code('TL404'),
      'not its file',
    );
    await assert.rejects(batches.create('file-none', { key: 'l', hash: 'aa' }), code('TL404'));
    const again = await batches.create(file.id, { key: 'l', hash: 'aa' });
    assert.equal(again.repeated, false, 'a refused create leaves its key free');
  });

  test('twice at once under one key is one batch', async () => {
    const file = await batches.makeFile('{}\n');
    const made = await Promise.all([
      batches.create(file.id, { key: 'm', hash: 'aa' }),
      batchesOf(other).create(file.id, { key: 'm', hash: 'aa' }),
    ]);
    assert.equal(made[0].batch_id, made[1].batch_id);
  });

  test('needs a file for batches, and a queue for its endpoint', async () => {
    const vision = await batches.makeFile('{}\n', 'vision');
    await assert.rejects(batches.create(vision.id), /Input file must have purpose 'batch', got 'vision'/);
    const file = await batches.makeFile('{}\n');
    await assert.rejects(batches.create(file.id, { queue: 'nobody' }), code('TL404'));
    const embed = await db.register(database.name(), '/v1/embeddings');
    await assert.rejects(batches.create(file.id, { queue: embed }), code('TL400'));
  });
});

test('a queue with lines of a batch is not deleted, and one whose batch has ended is', async () => {
  const id = await batches.start(many(1));
  await assert.rejects(db.run('select tasklane.delete_queue($1)', [queue]), code('TL409'));
  await batches.topUp();
  await batches.work(lane, 1);
  await finish(id);
  await db.run('select tasklane.delete_queue($1)', [queue]);
});

test('a queue that a batch is being made for is not deleted meanwhile', async () => {
  const file = await batches.makeFile('{}\n');
  const [, end] = await hold(db, () => batches.create(file.id, { queue }));
  const deleting = assert.rejects(other.run('select tasklane.delete_queue($1)', [queue]), code('TL409'));
  await Promise.race([deleting, untilBlocked(watcher, other)]);
  await end('commit');
  await deleting;
});

test('an explanation says how many lines wait, who is ahead, and why', async () => {
  const first = await batches.start(many(3));
  const second = await batches.start(many(2));
  await batches.topUp();
  const explain = async (id: bigint) => (await db.rows('select * from tasklane.explain_batch($1)', [id]))[0];
  assert.equal((await explain(first))?.reason, `no worker takes from ${lane}`);
  await db.run(`select tasklane.see_workers(array['w'], array[null], array[null], array['["${lane}"]'])`);
  assert.match((await explain(first))?.reason, /^it shares .* with 1 other batches/);
  assert.deepEqual(
    [
      (await explain(second))?.status,
      (await explain(second))?.waiting,
      (await explain(second))?.running,
      (await explain(second))?.ahead,
    ],
    ['in_progress', 2, 0, 1],
  );
  await db.run('select tasklane.set_queue($1, $2)', [queue, '{"paused": true}']);
  assert.match((await explain(second))?.reason, /is paused/);
});
