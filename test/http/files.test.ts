import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request } from 'node:http';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { formHeaders, multipart, type Part } from '../support/multipart.ts';
import { type Answer, type Json, until } from '../support/server.ts';
import { Session } from '../support/sql.ts';
import { assertOpenAiRefused, fixture } from './fixture.ts';

const BATCH_MAX = 40_000;
const FILE_MAX = 90_000;
const f = fixture({
  TASKLANE_BATCH_MAX_BYTES: String(BATCH_MAX),
  TASKLANE_FILE_MAX_BYTES: String(FILE_MAX),
  TASKLANE_FILE_QUOTA_BYTES: '1000000',
  TASKLANE_MAX_BODY_BYTES: '2048',
});

const LINE = '{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}\n';
const MONTH = 2_592_000;

type Caller = typeof f.client;
const post = (parts: Part[], caller: Caller = f.client, boundary?: string): Promise<Answer> =>
  caller('POST', '/v1/files', multipart(parts, boundary), { headers: formHeaders(boundary) });

const file = (value: string | Uint8Array, filename = 'jobs.jsonl'): Part => ({
  name: 'file',
  value,
  filename,
  headers: ['Content-Type: application/octet-stream'],
});
const purpose = (value: string): Part => ({ name: 'purpose', value });

async function upload(value: string | Uint8Array, caller: Caller = f.client, what = 'user_data'): Promise<Json> {
  const answer = await post([file(value, 'notes.txt'), purpose(what)], caller);
  assert.equal(answer.status, 200, answer.text);
  return answer.json;
}

/** Begins to send a form, chunked. */
function openForm() {
  const sent = request(`${f.server.url}/v1/files`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${f.keys.client}`, ...formHeaders(), 'Transfer-Encoding': 'chunked' },
  });
  sent.on('error', () => undefined);
  return sent;
}

/** Sends a form in these pieces. */
async function sendChunked(pieces: Buffer[]): Promise<Answer> {
  const sent = openForm();
  // A refusal may come before all is sent.
  const answered = once(sent, 'response');
  for (const piece of pieces) {
    if (!sent.write(piece)) await once(sent, 'drain');
    await new Promise(setImmediate);
  }
  sent.end();
  const [response] = await answered;
  const body = await text(response);
  const headers = new Headers(response.headers);
  return { status: response.statusCode, headers, text: body, json: JSON.parse(body) };
}

test('a file comes back as the object of the contract, whatever comes first', async () => {
  for (const parts of [
    [file(LINE), purpose('batch')],
    [purpose('batch'), file(LINE)],
  ]) {
    const { status, json, headers } = await post(parts);
    assert.equal(status, 200);
    assert.match(headers.get('content-type') ?? '', /^application\/json/);
    assert.match(headers.get('x-request-id') ?? '', /^req_[0-9a-f]{32}$/);
    const { id, created_at, ...rest } = json;
    assert.match(id, /^file-[0-9A-Za-z]{22}$/);
    assert.ok(Math.abs(created_at - Date.now() / 1000) < 60);
    assert.deepEqual(rest, {
      object: 'file',
      purpose: 'batch',
      filename: 'jobs.jsonl',
      bytes: LINE.length,
      expires_at: created_at + MONTH,
      status: 'processed',
      status_details: null,
    });
    assert.deepEqual((await f.client('GET', `/v1/files/${id}`)).json, json);
    const content = await f.client('GET', `/v1/files/${id}/content`);
    assert.equal(content.text, LINE);
  }
});

test('a form as Python sends it, and as Ruby does, is taken', async () => {
  const python = await post([purpose('batch'), file(LINE, 'upload')], f.client, '0123456789abcdef0123456789abcdef');
  assert.deepEqual([python.status, python.json.filename], [200, 'upload']);
  const ruby = await f.client(
    'POST',
    '/v1/files?timeout=120',
    multipart([{ name: 'file', value: LINE, filename: 'jobs.jsonl', headers: ['Content-Type: '] }, purpose('batch')]),
    { headers: { 'Content-Type': 'multipart/form-data; boundary="a0b1c2d3e4f5"' } },
  );
  assert.equal(ruby.status, 200, ruby.text);
  const headers = { 'Content-Type': 'application/json' };
  for (const [method, path] of [
    ['GET', ''],
    ['GET', '/content'],
    ['DELETE', ''],
  ])
    assert.equal(
      (await f.client(method as string, `/v1/files/${ruby.json.id}${path}?timeout=120`, undefined, { headers })).status,
      200,
    );
});

test('names and bytes stay as they were sent', async () => {
  const bytes = Buffer.from([0xef, 0xbb, 0xbf, 0, 13, 10, 13, 255, 254, 10, 45, 45]);
  const names = ['ü 👋 %22q%22.bin', '.jsonl', 'a.b.c', `${'x'.repeat(251)}.bin`];
  for (const name of names) {
    const { status, json } = await post([file(bytes, name), purpose('user_data')]);
    assert.deepEqual([status, json.filename, json.bytes, json.expires_at], [200, name, bytes.length, null]);
    const response = await fetch(`${f.server.url}/v1/files/${json.id}/content`, {
      headers: { Authorization: `Bearer ${f.keys.client}` },
    });
    assert.deepEqual(Buffer.from(await response.arrayBuffer()), bytes);
  }
  assert.equal((await post([file(bytes, 'C:\\tmp\\..\\a/b/notes.txt'), purpose('vision')])).json.filename, 'notes.txt');
});

test('what a client may choose is honoured', async () => {
  for (const [seconds, anchor] of [
    ['3600', 'created_at'],
    [String(MONTH), 'created_at'],
  ]) {
    const { json } = await post([
      file(LINE),
      { name: 'expires_after[anchor]', value: anchor as string },
      { name: 'expires_after[seconds]', value: seconds as string },
      purpose('batch'),
      { name: 'something_else', value: 'is passed over' },
    ]);
    assert.equal(json.expires_at, json.created_at + Number(seconds));
  }
  for (const one of ['assistants', 'fine-tune', 'vision', 'user_data', 'evals'])
    assert.equal((await post([purpose(one), file('no JSON', 'notes.txt')])).json.purpose, one);
});

test('every fault of an upload is told in the words of the contract', async () => {
  const expiry = (seconds?: string, anchor?: string): Part[] => [
    ...(seconds === undefined ? [] : [{ name: 'expires_after[seconds]', value: seconds }]),
    ...(anchor === undefined ? [] : [{ name: 'expires_after[anchor]', value: anchor }]),
  ];
  const missing = 'missing_required_parameter';
  const faults: [Part[], string | RegExp, (string | null)?, (string | null)?][] = [
    [[purpose('batch')], "Missing required parameter: 'file'.", 'file', missing],
    [[], "Missing required parameter: 'file'.", 'file', missing],
    [[purpose('batch'), { ...file(LINE), name: 'data' }], "Missing required parameter: 'file'.", 'file', missing],
    [[file(LINE)], "Missing required parameter: 'purpose'.", 'purpose', missing],
    [
      [file(LINE), purpose('answers')],
      "'answers' is not one of ['fine-tune', 'assistants', 'batch', 'user_data', 'evals', 'vision'] - 'purpose'",
      'purpose',
    ],
    [[purpose('batch_output'), file(LINE)], /^'batch_output' is not one of /, 'purpose'],
    [[file(LINE, 'notes.txt'), purpose('batch')], 'Invalid file format for Batch API. Must be .jsonl'],
    [[purpose('batch'), file(LINE, 'jobs.json')], 'Invalid file format for Batch API. Must be .jsonl'],
    [
      [file(Buffer.from([123, 34, 0xc3, 0x28, 34, 125])), purpose('batch')],
      'Invalid file for Batch API. Must be utf-8 encoded',
    ],
    [[file(''), purpose('batch')], 'File is empty.', 'file'],
    [[purpose('user_data'), file('')], 'File is empty.', 'file'],
    [[file(' \r\n\n\t\n'), purpose('batch')], 'File is empty.', 'file'],
    [[file('\n\n{"a":\n{}\n'), purpose('batch')], /Line 3 is not parseable as valid JSON/, 'file', 'invalid_json_line'],
    [
      [file(LINE), purpose('batch'), ...expiry('5', 'created_at')],
      "Invalid 'expires_after.seconds': integer below minimum value. Expected a value >= 3600, but got 5 instead.",
      'expires_after.seconds',
      'integer_below_min_value',
    ],
    [
      [file(LINE), purpose('batch'), ...expiry('2592001', 'created_at')],
      "Invalid 'expires_after.seconds': integer above maximum value. Expected a value <= 2592000, but got 2592001 instead.",
      'expires_after.seconds',
      'integer_above_max_value',
    ],
    [
      [...expiry('3600', 'now'), file(LINE), purpose('batch')],
      "Invalid value: 'now'. Supported values are: 'created_at'.",
      'expires_after.anchor',
      'invalid_value',
    ],
    [[...expiry('3600'), file(LINE), purpose('batch')], /'expires_after.anchor'/, 'expires_after.anchor', missing],
    [
      [...expiry(undefined, 'created_at'), file(LINE), purpose('batch')],
      /'expires_after.seconds'/,
      'expires_after.seconds',
      missing,
    ],
    [
      [...expiry('soon', 'created_at'), file(LINE), purpose('batch')],
      /'expires_after.seconds'/,
      'expires_after.seconds',
      'invalid_type',
    ],
    [[purpose('batch'), purpose('batch'), file(LINE)], /'purpose' was sent more than once/, 'purpose'],
    [[file(LINE), file(LINE), purpose('batch')], 'Only one file may be sent.'],
    [[file(LINE, 'x'.repeat(256)), purpose('user_data')], /string too long/, 'file', 'string_above_max_length'],
    [[file(LINE), { name: 'n'.repeat(101), value: '1' }, purpose('batch')], /name may have at most 100 characters/],
    [[file(LINE), { name: 'note', value: 'x'.repeat(300_000) }, purpose('batch')], /'note' is longer than 4096 bytes/],
    [[file(LINE), ...Array.from({ length: 20 }, (_, i) => ({ name: `f${i}`, value: '' }))], /too many parts/],
  ];
  for (const [parts, message, param = null, code = null] of faults)
    assertOpenAiRefused(await post(parts), 400, message, param, code);
});

test('what is no multipart form is refused, in words', async () => {
  const send = (body: string | Buffer, headers: Record<string, string>) =>
    f.client('POST', '/v1/files', body, { headers });
  assertOpenAiRefused(await send('{}', {}), 400, 'The body must be multipart/form-data, not application/json.');
  assertOpenAiRefused(
    await send('a=b', { 'Content-Type': 'application/x-www-form-urlencoded' }),
    400,
    /must be multipart/,
  );
  assertOpenAiRefused(await send('x', { 'Content-Type': 'multipart/form-data' }), 400, /no boundary/);
  assertOpenAiRefused(await send('x', { ...formHeaders(), 'Content-Encoding': 'gzip' }), 415, /gzip/);
  for (const body of ['', 'x', '\r\n', '--a0b1c2d3e4f5', '--a0b1c2d3e4f5\r\n\r\n', '--other\r\n\r\n--other--\r\n'])
    assert.equal((await send(body, formHeaders())).status, 400, body);
});

test('a form that ends too early is refused wherever it ends, and shows nothing', async () => {
  const before = (await f.client('GET', '/v1/files')).json.data.length;
  for (const parts of [
    [file(LINE), purpose('batch')],
    [purpose('batch'), file(LINE)],
  ]) {
    const form = multipart(parts);
    // The line break after the last boundary may be missing.
    const ends = Array.from({ length: form.length - 2 }, (_, length) => length);
    const send = (end: number) => f.client('POST', '/v1/files', form.subarray(0, end), { headers: formHeaders() });
    const statuses = await Promise.all(ends.map(async (end) => (await send(end)).status));
    assert.deepEqual(new Set(statuses), new Set([400]));
  }
  assert.equal((await f.client('GET', '/v1/files')).json.data.length, before);
});

test('a form may come in pieces of any size', async () => {
  const line = '{"custom_id":"Grüezi 👋 €"}\n';
  const form = multipart([file(line), purpose('batch')]);
  for (const size of [1, 2, 3, 7, 64]) {
    const pieces = Array.from({ length: Math.ceil(form.length / size) }, (_, i) =>
      form.subarray(i * size, (i + 1) * size),
    );
    const answer = await sendChunked(pieces);
    assert.equal(answer.status, 200, answer.text);
    assert.equal((await f.client('GET', `/v1/files/${answer.json.id}/content`)).text, line);
  }
});

test('for a batch only the first line that is not blank is read, and only so far', async () => {
  const good = [
    `\ufeff${LINE}`,
    `\r\n\n  \n${LINE.trim()}\r\n{"broken`,
    '{"no newline":1}',
    `{"long": ${' '.repeat(3000)} not JSON`,
    `${' '.repeat(1500)}{}\nnot JSON`,
  ];
  for (const content of good) {
    const answer = await post([file(content), purpose('batch')]);
    assert.equal(answer.status, 200, `${content.slice(0, 40)}: ${answer.text}`);
    assert.equal(
      (await f.client('GET', `/v1/files/${answer.json.id}/content`)).text.replace('\ufeff', ''),
      content.replace('\ufeff', ''),
    );
  }
  for (const content of ['x\n', `${LINE.slice(0, -3)}\n${LINE}`, `${'['.repeat(1500)}\n`])
    assertOpenAiRefused(
      await post([file(content), purpose('batch')]),
      400,
      /^Invalid file for Batch API\. Line 1 /,
      'file',
      'invalid_json_line',
    );
});

test('a file that is too large for its purpose is a 413, whenever the purpose is known', async () => {
  const lines = (bytes: number) => Buffer.concat([Buffer.from(LINE), Buffer.alloc(bytes - LINE.length, 10)]);
  for (const [what, most] of [
    ['batch', BATCH_MAX],
    ['user_data', FILE_MAX],
  ] as const) {
    for (const order of [1, -1]) {
      const parts = (bytes: number) => [file(lines(bytes)), purpose(what)].slice().sort(() => order);
      assert.equal((await post(parts(most))).status, 200);
      assertOpenAiRefused(await post(parts(most + 1)), 413, `File is too large. It may have at most ${most} bytes.`);
    }
  }
  const form = multipart([file(Buffer.alloc(3_000_000, 32)), purpose('user_data')]);
  assertOpenAiRefused(await sendChunked([form.subarray(0, 2_000_000), form.subarray(2_000_000)]), 413, /too large/);
  assertOpenAiRefused(await f.client('POST', '/v1/files', form, { headers: formHeaders() }), 413, /too large/);
});

test('the files of a tenant, and what it announces, stay within its quota; deleting and cancelling makes room', async () => {
  const key = await f.server.key('client', 'small');
  const small: Caller = (method, path, body, options) => f.server.request(method, path, body, { key, ...options });
  const files = [];
  for (let i = 0; i < 11; i++) files.push(await upload(Buffer.alloc(90_000, 'x'), small));
  const words = 'File quota exceeded: your files may have 1000000 bytes in all. Delete some first.';
  assertOpenAiRefused(await post([file(Buffer.alloc(10_001, 'x'), 'a.txt'), purpose('vision')], small), 413, words);
  const both = await Promise.all(
    [1, 2].map(() => post([file(Buffer.alloc(10_000, 'x'), 'a.txt'), purpose('vision')], small)),
  );
  assert.deepEqual(both.map(({ status }) => status).sort(), [200, 413], 'two at once do not pass together');
  const announced = { bytes: 1, filename: 'a', mime_type: 'text/plain', purpose: 'vision' };
  assertOpenAiRefused(await small('POST', '/v1/uploads', announced), 413, words);
  await small('DELETE', `/v1/files/${files[0].id}`);
  const { json: begun } = await small('POST', '/v1/uploads', { ...announced, bytes: 90_000 });
  assertOpenAiRefused(await small('POST', '/v1/uploads', announced), 413, words);
  assertOpenAiRefused(await post([file('x', 'a.txt'), purpose('vision')], small), 413, words);
  assert.equal((await small('POST', `/v1/uploads/${begun.id}/cancel`)).status, 200);
  const { json: again } = await small('POST', '/v1/uploads', { ...announced, bytes: 90_000 });
  const part = multipart([{ name: 'data', value: Buffer.alloc(90_000, 'x'), filename: 'upload' }]);
  const added = await small('POST', `/v1/uploads/${again.id}/parts`, part, { headers: formHeaders() });
  const done = await small('POST', `/v1/uploads/${again.id}/complete`, { part_ids: [added.json.id] });
  assert.equal(done.json.status, 'completed', 'what was announced does not count twice');
  await upload('of another tenant');
});

test('a client that hangs up leaves nothing that can be seen, and what it sent is given up', async () => {
  const before = (await f.client('GET', '/v1/files')).json.data.length;
  const session = await new Session(f.server.databaseUrl).open();
  const begun = () =>
    session.value<boolean>(
      "select exists (select from tasklane.file where filename = 'hasty.txt' and not ready and deleted_at is null)",
    );
  const sent = openForm();
  const form = multipart([file(Buffer.alloc(80_000, 'x'), 'hasty.txt'), purpose('user_data')]);
  sent.write(form.subarray(0, 60_000));
  await until(begun);
  sent.destroy();
  await until(async () => !(await begun()));
  await session.client.end();
  assert.equal((await f.client('GET', '/v1/files')).json.data.length, before);
});

test('lists go through all files once, in either order, and by purpose', async () => {
  const key = await f.server.key('client', 'lister');
  const lister: Caller = (method, path, body, options) => f.server.request(method, path, body, { key, ...options });
  const list = async (query: string) => (await lister('GET', `/v1/files?${query}`)).json;
  assert.deepEqual(await list(''), { object: 'list', data: [], first_id: null, last_id: null, has_more: false });
  const made: string[] = [];
  for (const what of ['user_data', 'vision', 'user_data', 'vision', 'user_data'])
    made.push((await upload('x', lister, what)).id);

  const walk = async (query: string) => {
    const ids: string[] = [];
    for (let after = ''; ; ) {
      const page = await list(`${query}${after && `&after=${after}`}`);
      const here = page.data.map(({ id }: Json) => id);
      assert.deepEqual([page.first_id, page.last_id], [here[0] ?? null, here.at(-1) ?? null]);
      ids.push(...here);
      if (!page.has_more) return ids;
      after = page.last_id;
    }
  };
  const newest = made.toReversed();
  for (const limit of [1, 2, 3, 5, 6, 10_000]) {
    assert.deepEqual(await walk(`limit=${limit}`), newest);
    assert.deepEqual(await walk(`limit=${limit}&order=asc`), made);
    assert.deepEqual(await walk(`limit=${limit}&purpose=vision`), [newest[1], newest[3]]);
  }
  assert.deepEqual(await walk('purpose=batch_output'), []);

  // Who deletes what a page had goes on after the last of it.
  const [first] = (await list('limit=1')).data;
  await lister('DELETE', `/v1/files/${first.id}`);
  assert.deepEqual(await walk(`limit=2&after=${first.id}`), newest.slice(1));

  const bad: [string, string | RegExp, string, string][] = [
    [
      'limit=10001',
      "Invalid 'limit': integer above maximum value. Expected a value <= 10000, but got 10001 instead.",
      'limit',
      'integer_above_max_value',
    ],
    ['limit=0', /integer below minimum value. Expected a value >= 1, but got 0/, 'limit', 'integer_below_min_value'],
    ['limit=many', /'limit'/, 'limit', 'invalid_type'],
    ['order=up', "Invalid value: 'up'. Supported values are: 'asc' and 'desc'.", 'order', 'invalid_value'],
    ['after=file-nowhere', /^Invalid 'after'/, 'after', 'invalid_value'],
  ];
  for (const [query, message, param, code] of bad)
    assertOpenAiRefused(await lister('GET', `/v1/files?${query}`), 400, message, param, code);
});

test('an id with a NUL is refused in our own words', async () => {
  for (const path of ['/v1/files/file-%00', '/v1/files/file-%00/content'])
    assertOpenAiRefused(await f.client('GET', path), 400, 'text must not contain a NUL character');
});

test('a deleted file is gone for every call, and the answer says so', async () => {
  const { id } = await upload('x');
  const gone = await f.client('DELETE', `/v1/files/${id}`, '', { headers: { 'Content-Type': 'application/json' } });
  assert.deepEqual([gone.status, gone.json], [200, { object: 'file', id, deleted: true }]);
  for (const [method, path] of [
    ['GET', id],
    ['GET', `${id}/content`],
    ['DELETE', id],
    ['GET', 'file-abc'],
  ] as const) {
    const answer = await f.client(method, `/v1/files/${path}`);
    assertOpenAiRefused(answer, 404, `No such File object: ${path.replace('/content', '')}`, 'id');
  }
  assert.equal((await f.client('GET', '/v1/files')).text.includes(id), false);
});

test("another tenant's files are not there", async () => {
  const { id } = await upload('x');
  assert.equal((await f.other('GET', `/v1/files?after=${id}`)).status, 400);
  assert.equal((await f.other('GET', '/v1/files')).text.includes(id), false);
  for (const [method, path] of [
    ['GET', ''],
    ['GET', '/content'],
    ['DELETE', ''],
  ] as const)
    assertOpenAiRefused(await f.other(method, `/v1/files/${id}${path}`), 404, undefined, 'id');
  assert.equal((await f.admin('GET', `/v1/files/${id}`)).status, 200);
});
