import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { formHeaders, multipart } from '../support/multipart.ts';
import type { Json } from '../support/server.ts';
import { Session } from '../support/sql.ts';
import { assertOpenAiRefused, fixture } from './fixture.ts';

const f = fixture({ TASKLANE_BATCH_MAX_BYTES: '100000' });
const LINE = '{"custom_id":"a"}\n';
const MONTH = 2_592_000;

const announce = (more: object = {}, caller = f.client) =>
  caller('POST', '/v1/uploads', {
    bytes: 10,
    filename: 'jobs.jsonl',
    mime_type: 'application/jsonl',
    purpose: 'user_data',
    ...more,
  });
const tryAdd = (id: string, value: string | Uint8Array, caller = f.client, name = 'data') =>
  caller('POST', `/v1/uploads/${id}/parts`, multipart([{ name, value, filename: 'upload' }]), {
    headers: formHeaders(),
  });
const complete = (id: string, part_ids: string[], more: object = {}) =>
  f.client('POST', `/v1/uploads/${id}/complete`, { part_ids, ...more });
const cancel = (id: string) =>
  f.client('POST', `/v1/uploads/${id}/cancel`, '', { headers: { 'Content-Type': 'application/json' } });

async function begin(bytes: number, more: object = {}): Promise<Json> {
  const answer = await announce({ bytes, ...more });
  assert.equal(answer.status, 200, answer.text);
  return answer.json;
}
async function add(id: string, value: string | Uint8Array): Promise<string> {
  const answer = await tryAdd(id, value);
  assert.equal(answer.status, 200, answer.text);
  return answer.json.id;
}
const content = async (id: string) => (await f.client('GET', `/v1/files/${id}/content`)).text;

test('a file is made of parts sent in any order, and is one like others', async () => {
  const upload = await begin(3 * LINE.length, { purpose: 'batch' });
  const { id, created_at, ...rest } = upload;
  assert.match(id, /^upload_[0-9A-Za-z]{22}$/);
  assert.deepEqual(rest, {
    object: 'upload',
    bytes: 3 * LINE.length,
    expires_at: created_at + 3600,
    filename: 'jobs.jsonl',
    purpose: 'batch',
    status: 'pending',
    file: null,
  });
  const lines = [LINE, LINE.replace('a', 'b'), LINE.replace('a', 'c')];
  const part = (await tryAdd(id, lines[2] as string)).json;
  assert.match(part.id, /^part_[0-9A-Za-z]{22}$/);
  assert.deepEqual(Object.keys(part), ['object', 'id', 'created_at', 'upload_id']);
  assert.deepEqual([part.object, part.upload_id], ['upload.part', id]);
  const [first, second, unused] = await Promise.all([
    add(id, lines[0] as string),
    add(id, lines[1] as string),
    add(id, 'x'),
  ]);
  assert.equal((await f.client('GET', '/v1/files')).json.data.length, 0, 'parts are no files');

  const order = [first, second, part.id];
  const md5 = createHash('md5').update(lines.join('')).digest('hex').toUpperCase();
  const done = await complete(id, order, { md5 });
  assert.equal(done.status, 200, done.text);
  const { file, ...after } = done.json;
  assert.deepEqual({ ...after, file: null }, { ...upload, status: 'completed' });
  assert.equal(file.object, 'file');
  assert.deepEqual(
    [file.bytes, file.filename, file.purpose, file.status, file.expires_at],
    [3 * LINE.length, 'jobs.jsonl', 'batch', 'processed', file.created_at + MONTH],
  );
  assert.equal(await content(file.id), lines.join(''));
  assert.deepEqual((await f.client('GET', '/v1/files')).json.data, [file]);

  assert.deepEqual((await complete(id, order)).json, done.json, 'once more, as after a lost reply');
  assertOpenAiRefused(
    await complete(id, [first, second, unused]),
    400,
    "Cannot complete an upload with status 'completed'.",
  );
  assertOpenAiRefused(await tryAdd(id, 'x'), 400, "Cannot add a part to an upload with status 'completed'.");
  assertOpenAiRefused(await cancel(id), 400, "Cannot cancel an upload with status 'completed'.");
});

test('the parts must be those of the upload, each once, and have as many bytes as announced', async () => {
  const { id } = await begin(6);
  const [a, b, other] = [await add(id, 'abc'), await add(id, 'def'), await add((await begin(6)).id, 'def')];
  const short = 'The parts have 3 bytes in all, but the upload was announced with 6.';
  assertOpenAiRefused(await complete(id, [a]), 400, short, 'part_ids');
  assertOpenAiRefused(await complete(id, [a, a]), 400, /named more than once/, 'part_ids');
  assertOpenAiRefused(await complete(id, [a, other]), 400, /has no part 'part_/, 'part_ids');
  assertOpenAiRefused(await complete(id, [a, 'part_x']), 400, /has no part 'part_x'/, 'part_ids');
  assertOpenAiRefused(await complete(id, []), 400, /array too short/, 'part_ids', 'array_below_min_length');
  assertOpenAiRefused(await complete(id, [a, b], { md5: 'x' }), 400, /hexadecimal/, 'md5', 'invalid_value');
  assertOpenAiRefused(await complete(id, [a, b], { md5: '0'.repeat(32) }), 400, /^The md5 of the parts is/, 'md5');
  assert.equal(await content((await complete(id, [b, a])).json.file.id), 'defabc');
});

test('what is to be a batch is checked as an uploaded file is', async () => {
  const of = async (...parts: (string | Buffer)[]) => {
    const { id } = await begin(Buffer.concat(parts.map((part) => Buffer.from(part))).length, { purpose: 'batch' });
    const ids = [];
    for (const part of parts) ids.push(await add(id, part));
    return complete(id, ids);
  };
  const smile = Buffer.from('"👋"\n');
  assert.equal((await of(smile.subarray(0, 3), smile.subarray(3))).status, 200, 'a character over two parts');
  const notUtf8 = 'Invalid file for Batch API. Must be utf-8 encoded';
  assertOpenAiRefused(await of(smile.subarray(0, 3), '"\n'), 400, notUtf8);
  assertOpenAiRefused(await of('\n{"a"', '\n}\n'), 400, /Line 2 is not parseable/, 'file', 'invalid_json_line');
  assertOpenAiRefused(await of('\n', ' \n'), 400, 'File is empty.', 'file');
});

test('what can not be uploaded is refused when it is announced', async () => {
  const missing = 'missing_required_parameter';
  for (const name of ['bytes', 'filename', 'mime_type', 'purpose'])
    assertOpenAiRefused(
      await announce({ [name]: undefined }),
      400,
      `Missing required parameter: '${name}'.`,
      name,
      missing,
    );
  assertOpenAiRefused(await announce({ bytes: 0 }), 400, /below minimum/, 'bytes', 'integer_below_min_value');
  assertOpenAiRefused(
    await announce({ bytes: 8 * 1024 ** 3 + 1 }),
    400,
    /above maximum/,
    'bytes',
    'integer_above_max_value',
  );
  assertOpenAiRefused(await announce({ purpose: 'answers' }), 400, /^'answers' is not one of \[/, 'purpose');
  assertOpenAiRefused(await announce({ filename: '' }), 400, /empty string/, 'filename', 'empty_string');
  assertOpenAiRefused(await announce({ purpose: 'batch', filename: 'a.txt' }), 400, /Must be \.jsonl/);
  assertOpenAiRefused(await announce({ purpose: 'batch', bytes: 100_001 }), 413, /too large/);
  const soon = { expires_after: { anchor: 'created_at', seconds: 5 } };
  assertOpenAiRefused(await announce(soon), 400, /but got 5/, 'expires_after.seconds', 'integer_below_min_value');
  assert.equal((await announce({ bytes: 8 * 1024 ** 3 })).status, 200);

  const { id } = await begin(1, { expires_after: { anchor: 'created_at', seconds: 3600 } });
  const { file } = (await complete(id, [await add(id, 'x')])).json;
  assert.equal(file.expires_at, file.created_at + 3600);
});

test('a part is refused when it is no part, and when the upload has too many bytes already', async () => {
  const { id } = await begin(10);
  assertOpenAiRefused(
    await tryAdd(id, 'x', f.client, 'file'),
    400,
    "Missing required parameter: 'data'.",
    'data',
    'missing_required_parameter',
  );
  assertOpenAiRefused(await f.client('POST', `/v1/uploads/${id}/parts`, {}), 400, /must be multipart/);
  for (let i = 0; i < 3; i++) await add(id, '0123456789');
  assertOpenAiRefused(await tryAdd(id, 'x'), 400, /more bytes than the 10/, 'data');
  const headers = { ...formHeaders(), 'Content-Length': String(70 * 1024 * 1024) };
  const large = multipart([{ name: 'data', value: new Uint8Array(70 * 1024 * 1024 - 130), filename: 'upload' }]);
  assertOpenAiRefused(
    await f.client('POST', `/v1/uploads/${id}/parts`, large, {
      headers: { ...headers, 'Content-Length': String(large.length) },
    }),
    413,
    'File is too large. It may have at most 67108864 bytes.',
  );
});

test('a cancelled upload takes nothing any more, and is cancelled again without harm', async () => {
  const upload = await begin(1);
  const part = await add(upload.id, 'x');
  const done = await cancel(upload.id);
  assert.deepEqual([done.status, done.json], [200, { ...upload, status: 'cancelled' }]);
  assert.deepEqual((await cancel(upload.id)).json, done.json);
  assertOpenAiRefused(await tryAdd(upload.id, 'x'), 400, "Cannot add a part to an upload with status 'cancelled'.");
  assertOpenAiRefused(await complete(upload.id, [part]), 400, "Cannot complete an upload with status 'cancelled'.");
});

test('an upload that took more than an hour has expired, whether or not it was tidied up', async () => {
  const session = await new Session(f.server.databaseUrl).open();
  const { id } = await begin(1);
  const part = await add(id, 'x');
  await session.run('update tasklane.upload set expires_at = now() where upload_id = $1', [id]);
  for (const tidied of [false, true]) {
    if (tidied) await session.run('select tasklane.tidy_files()');
    assertOpenAiRefused(await tryAdd(id, 'x'), 400, "Cannot add a part to an upload with status 'expired'.");
    assertOpenAiRefused(await complete(id, [part]), 400, /'expired'|has no part/, undefined);
    assertOpenAiRefused(await cancel(id), 400, "Cannot cancel an upload with status 'expired'.");
  }
  await session.client.end();
});

test("another tenant's upload, and one that never was, are not there", async () => {
  const { id } = await begin(1);
  for (const [caller, upload] of [
    [f.other, id],
    [f.client, 'upload_x'],
  ] as const) {
    const words = `No such Upload object: ${upload}`;
    assertOpenAiRefused(await tryAdd(upload, 'x', caller), 404, words, 'id');
    assertOpenAiRefused(await caller('POST', `/v1/uploads/${upload}/cancel`), 404, words, 'id');
    const body = { part_ids: ['part_x'] };
    assertOpenAiRefused(await caller('POST', `/v1/uploads/${upload}/complete`, body), 404, words, 'id');
  }
});
