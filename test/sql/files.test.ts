import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { before, test } from 'node:test';
import { code, hold, type Session, testDatabase, untilBlocked } from '../support/sql.ts';

const database = await testDatabase();
let db: Session;
before(async () => {
  db = await database.open();
});

const CHUNKS = 'select count(*)::int from tasklane.file_chunk where file_number = $1';
const begin = (purpose = 'batch') => db.value<bigint>("select tasklane.begin_file(1, 'a.jsonl', $1)", [purpose]);
const append = (file: bigint, bytes: string | Buffer, session = db) =>
  session.value<bigint>('select tasklane.append_chunk($1, $2)', [file, Buffer.from(bytes)]);
const finish = (file: bigint) => db.value<string>('select file_id from tasklane.finish_file($1)', [file]);
const remove = (fileId: string, session = db) => session.value('select tasklane.delete_file($1)', [fileId]);
const chunks = (file: bigint) => db.value<number>(CHUNKS, [file]);
const isThere = (file: bigint) =>
  db.value<boolean>('select exists (select from tasklane.file where file_number = $1)', [file]);

async function made(...pieces: string[]): Promise<{ file: bigint; id: string }> {
  const file = await begin();
  for (const piece of pieces) await append(file, piece);
  return { file, id: await finish(file) };
}

/** Tidies until nothing is left to do. */
async function tidy(idle = '1 hour', limit = 2): Promise<void> {
  while ((await db.value<number>('select tasklane.tidy_files($1, $2)', [limit, idle])) > 0);
}

let batches = 0n;
const batch = (more: Record<string, unknown>) =>
  db.value<bigint>(
    `insert into tasklane.batch (batch_id, tenant_id, endpoint, input_file, input_file_id, completion_window, created_at, expires_at, status, expanded, output_file, total)
     values ($1, 1, '/', $2, '', '24h', now(), now(), $3, $4, $5, 1) returning batch_id`,
    [++batches, more.input ?? 0n, more.status ?? 'in_progress', more.expanded ?? false, more.output ?? null],
  );

test('ids are 22 characters of all 62, none more often than others', async () => {
  const ids = await db.rows<{ id: string }>("select tasklane.random_id('x-') as id from generate_series(1, 3000)");
  const counts = new Map<string, number>();
  for (const { id } of ids) {
    assert.match(id, /^x-[0-9A-Za-z]{22}$/);
    for (const char of id.slice(2)) counts.set(char, (counts.get(char) ?? 0) + 1);
  }
  assert.equal(new Set(ids.map(({ id }) => id)).size, ids.length);
  assert.equal(counts.size, 62);
  // 66,000 characters are 1,065 of each, ± 32; a modulo of 256 would give some 24 % more than others.
  for (const [char, count] of counts) assert.ok(count > 850 && count < 1280, `${char}: ${count}`);
  assert.match(await db.value("select tasklane.random_id('', 40)"), /^[0-9A-Za-z]{40}$/);
});

test('a file grows by chunks and is read by any byte of it, and shows only when it is finished', async () => {
  const file = await begin();
  assert.equal(await append(file, 'abc'), 3n);
  assert.equal(await append(file, ''), 3n);
  assert.equal(await append(file, 'defg'), 7n);
  const read = async (at: number) => {
    const [row] = await db.rows<{ at: bigint; bytes: Buffer }>('select * from tasklane.read_chunk($1, $2)', [file, at]);
    return row && [Number(row.at), row.bytes.toString()];
  };
  for (const at of [0, 2]) assert.deepEqual(await read(at), [0, 'abc']);
  for (const at of [3, 6]) assert.deepEqual(await read(at), [3, 'defg']);
  assert.equal(await read(7), undefined);
  const id = await db.value<string>('select file_id from tasklane.file where file_number = $1', [file]);
  assert.equal((await db.rows('select * from tasklane.find_file($1)', [id])).length, 0);
  assert.equal(await finish(file), id);
  assert.equal(await finish(file), id, 'once more');
  assert.equal((await db.rows('select * from tasklane.find_file($1)', [id])).length, 1);
  await assert.rejects(append(file, 'h'), code('TL409'));
});

test('a given up file takes nothing more and can not be finished', async () => {
  const file = await begin();
  await db.run('select tasklane.drop_file($1)', [file]);
  await assert.rejects(append(file, 'a'), code('TL409'));
  await assert.rejects(finish(file), code('TL409'));
  await tidy();
  assert.equal(await isThere(file), false);
});

test("two that finish at once do not pass a tenant's quota together", async () => {
  const other = await database.open();
  const watcher = await database.open();
  const tenant = await db.value<number>("select tasklane.make_tenant('full')");
  const beginning = "select tasklane.begin_file($1, 'a', 'vision')";
  const a = await db.value<bigint>(beginning, [tenant]);
  const b = await db.value<bigint>(beginning, [tenant]);
  await append(a, '123456');
  await append(b, '123456');
  const finishing = 'select tasklane.finish_file($1, p_quota => 10)';
  const [, end] = await hold(db, () => db.run(finishing, [a]));
  const second = other.run(finishing, [b]);
  const refused = assert.rejects(second, code('TL413'));
  await untilBlocked(watcher, other);
  await end('commit');
  await refused;
  assert.equal(await db.value('select tasklane.tenant_file_bytes($1)', [tenant]), 6n);
});

test('a deleted file goes chunk by chunk, its name an hour later', async () => {
  const { file, id } = await made('a', 'b', 'c', 'd', 'e');
  const { file: kept } = await made('x');
  await remove(id);
  assert.equal(await remove(id), undefined, 'only once');
  assert.equal((await db.rows('select * from tasklane.find_file($1)', [id])).length, 0);
  await db.value('select tasklane.tidy_files(2)');
  assert.equal(await chunks(file), 3);
  await tidy();
  assert.deepEqual([await chunks(file), await isThere(file)], [0, true]);
  await tidy('0');
  assert.equal(await isThere(file), false);
  assert.equal(await chunks(kept), 1);
});

test('an expired file is gone at once and removed when it is tidied up', async () => {
  const { file, id } = await made('a');
  await db.run('update tasklane.file set expires_at = now() where file_number = $1', [file]);
  assert.equal((await db.rows('select * from tasklane.find_file($1)', [id])).length, 0);
  assert.equal(await remove(id), undefined);
  assert.equal(await chunks(file), 1);
  await tidy();
  assert.equal(await chunks(file), 0);
});

test('chunks stay for as long as a batch has still to read them, and others do not wait for that', async () => {
  for (const [status, expanded, stays] of [
    ['validating', false, true],
    ['in_progress', false, true],
    ['in_progress', true, false],
    ['cancelling', false, true],
    ['finalizing', true, false],
    ['completed', true, false],
    ['failed', false, false],
  ] as const) {
    const read = await made('a', 'b', 'c');
    await batch({ input: read.file, status, expanded });
    const other = await made('a', 'b');
    for (const { id } of [read, other]) await remove(id);
    await tidy('0');
    assert.deepEqual([await chunks(read.file), await chunks(other.file)], [stays ? 3 : 0, 0], `${status} ${expanded}`);
    assert.equal(await isThere(read.file), stays);
    await db.run("update tasklane.batch set status = 'completed' where input_file = $1", [read.file]);
    await tidy('0');
    assert.equal(await isThere(read.file), false);
  }
});

test('who makes a batch of a file holds it, and a deletion waits', async () => {
  const other = await database.open();
  const watcher = await database.open();
  const { file, id } = await made('a');
  const [, end] = await hold(db, async () => {
    await db.run('select from tasklane.file where file_number = $1 for share', [file]);
    await batch({ input: file, status: 'validating' });
  });
  const removed = remove(id, other);
  await untilBlocked(watcher, other);
  await end('commit');
  await removed;
  await tidy();
  assert.equal(await chunks(file), 1);
});

test('a file that is begun and left is removed, and nothing that somebody waits for', async () => {
  const left = await begin();
  const output = await begin();
  const part = await begin();
  for (const file of [left, output, part]) await append(file, 'a');
  await batch({ output, status: 'finalizing' });
  const [upload] = await db.rows<{ upload_id: string }>(
    "select * from tasklane.create_upload(1, 'a', 'vision', 'text/plain', 1)",
  );
  await db.run('select tasklane.add_part($1, 1, $2)', [upload?.upload_id, part]);
  await tidy('1 hour');
  assert.equal(await chunks(left), 1, 'an hour has not passed');
  await tidy('0');
  for (const [file, there] of [
    [left, false],
    [output, true],
    [part, true],
  ] as const)
    assert.deepEqual([await isThere(file), await chunks(file)], [there, there ? 1 : 0]);

  await db.run('update tasklane.upload set expires_at = now() where upload_id = $1', [upload?.upload_id]);
  await tidy('1 hour');
  assert.equal(await chunks(part), 0, 'its upload has expired');
  await tidy('0');
  assert.deepEqual(await db.rows('select from tasklane.upload'), []);
  assert.deepEqual(await db.rows('select from tasklane.upload_part'), []);
});

test('a slice that another server removes is passed over', async () => {
  const other = await database.open();
  const one = await made('a');
  await remove(one.id);
  const [, end] = await hold(other, () => other.run('select tasklane.tidy_files()'));
  const two = await made('a');
  await remove(two.id);
  await tidy();
  assert.deepEqual([await chunks(one.file), await chunks(two.file)], [1, 0]);
  await end('commit');
  assert.equal(await chunks(one.file), 0);
});

test('completing an upload moves its chunks without writing their bytes anew', async () => {
  const half = randomBytes(500_000);
  const [upload] = await db.rows<{ upload_id: string }>(
    "select * from tasklane.create_upload(1, 'a', 'vision', 'text/plain', 1000000)",
  );
  const parts: string[] = [];
  for (let i = 0; i < 2; i++) {
    const file = await begin();
    await append(file, half);
    parts.push(await db.value<string>('select part_id from tasklane.add_part($1, 1, $2)', [upload?.upload_id, file]));
  }
  const size = "select pg_relation_size(reltoastrelid) from pg_class where oid = 'tasklane.file_chunk'::regclass";
  const before = await db.value(size);
  const [done] = await db.rows<{ file_number: bigint }>('select * from tasklane.complete_upload($1, 1, $2)', [
    upload?.upload_id,
    parts.toReversed(),
  ]);
  assert.equal(await db.value(size), before);
  const rows = await db.rows<{ at: bigint; bytes: Buffer }>(
    'select at, bytes from tasklane.file_chunk where file_number = $1 order by at',
    [done?.file_number],
  );
  assert.deepEqual(
    rows.map(({ at }) => Number(at)),
    [0, 500_000],
  );
  for (const { bytes } of rows) assert.ok(bytes.equals(half));
});
