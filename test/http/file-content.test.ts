import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { formHeaders, multipart } from '../support/multipart.ts';
import type { Json } from '../support/server.ts';
import { assertOpenAiRefused, fixture } from './fixture.ts';

const f = fixture();
/** Three chunks, the last one short. */
const BYTES = randomBytes(2 * 1024 * 1024 + 200_000);

async function upload(filename = 'big.bin', bytes: Uint8Array = BYTES): Promise<Json> {
  const form = multipart([
    { name: 'file', value: bytes, filename },
    { name: 'purpose', value: 'user_data' },
  ]);
  const answer = await f.client('POST', '/v1/files', form, { headers: formHeaders() });
  assert.equal(answer.status, 200, answer.text);
  return answer.json;
}

async function get(id: string, headers: Record<string, string> = {}, method = 'GET') {
  const response = await fetch(`${f.server.url}/v1/files/${id}/content`, {
    method,
    headers: { Authorization: `Bearer ${f.keys.client}`, ...headers },
  });
  return { status: response.status, headers: response.headers, bytes: Buffer.from(await response.arrayBuffer()) };
}

test('content is what was uploaded, to the byte, as a download of that name', async () => {
  const { id } = await upload();
  const { status, headers, bytes } = await get(id, { Accept: 'application/binary' });
  assert.equal(status, 200);
  assert.ok(bytes.equals(BYTES));
  assert.equal(headers.get('content-type'), 'application/octet-stream');
  assert.equal(headers.get('content-length'), String(BYTES.length));
  assert.equal(headers.get('content-disposition'), 'attachment; filename="big.bin"');
  assert.equal(headers.get('accept-ranges'), 'bytes');
  assert.match(headers.get('x-request-id') ?? '', /^req_[0-9a-f]{32}$/);

  const head = await get(id, {}, 'HEAD');
  assert.deepEqual([head.status, head.bytes.length], [200, 0]);
  assert.equal(head.headers.get('content-length'), String(BYTES.length));
});

test('a name that a header can not hold is told twice', async () => {
  const { id } = await upload('ü "q"\u{1F44B}.bin'.replaceAll('"', '%22'), Buffer.from('x'));
  assert.equal(
    (await get(id)).headers.get('content-disposition'),
    `attachment; filename="_ %22q%22__.bin"; filename*=UTF-8''%C3%BC%20%2522q%2522%F0%9F%91%8B.bin`,
  );
});

test('a range is those bytes, over the borders of chunks too', async () => {
  const { id, bytes: all } = await upload();
  const ranges: [string, number, number][] = [
    ['bytes=0-0', 0, 1],
    ['bytes=0-', 0, all],
    ['bytes=1000000-1100000', 1_000_000, 1_100_001],
    ['bytes= 1048570-2097160', 1_048_570, 2_097_161],
    [`bytes=${all - 1}-`, all - 1, all],
    ['bytes=-5', all - 5, all],
    [`bytes=-${all + 10}`, 0, all],
    [`bytes=5-${all + 10}`, 5, all],
  ];
  for (const [range, from, to] of ranges) {
    const { status, headers, bytes } = await get(id, { Range: range });
    assert.equal(status, 206, range);
    assert.equal(headers.get('content-range'), `bytes ${from}-${to - 1}/${all}`);
    assert.equal(headers.get('content-length'), String(to - from));
    assert.ok(bytes.equals(BYTES.subarray(from, to)), range);
  }
  for (const range of [`bytes=${all}-`, `bytes=${all + 5}-${all + 6}`, 'bytes=-0']) {
    const refused = await f.client('GET', `/v1/files/${id}/content`, undefined, { headers: { Range: range } });
    assertOpenAiRefused(refused, 416, /range/);
    assert.equal(refused.headers.get('content-range'), `bytes */${all}`);
  }
  for (const range of ['bytes=', 'bytes=-', 'bytes=5-3', 'bytes=0-1,3-4', 'lines=0-1', 'bytes=a-b'])
    assert.equal((await get(id, { Range: range })).status, 200, `${range} is passed over`);
});

test('who has a file already is told so, and a range of another file is not taken for one of this', async () => {
  const { id } = await upload('a.bin', Buffer.from('0123456789'));
  const etag = (await get(id)).headers.get('etag') as string;
  for (const tags of [etag, `"x", W/${etag}`, '*']) {
    const { status, headers, bytes } = await get(id, { 'If-None-Match': tags });
    assert.deepEqual([status, headers.get('etag'), bytes.length], [304, etag, 0]);
  }
  assert.equal((await get(id, { 'If-None-Match': '"x"' })).status, 200);
  assert.equal((await get(id, { Range: 'bytes=0-1', 'If-Range': etag })).status, 206);
  assert.equal((await get(id, { Range: 'bytes=0-1', 'If-Range': '"x"' })).status, 200);
});

test('a client that hangs up in the middle of a download disturbs nobody', async () => {
  const { id } = await upload('big.bin', Buffer.alloc(30 * 1024 * 1024, 'x'));
  const cut = new AbortController();
  const response = await fetch(`${f.server.url}/v1/files/${id}/content`, {
    headers: { Authorization: `Bearer ${f.keys.client}` },
    signal: cut.signal,
  });
  await response.body?.getReader().read();
  cut.abort();
  assert.equal((await get(id, { Range: 'bytes=0-9' })).bytes.toString(), 'x'.repeat(10));
  assert.equal(f.server.stderr, '');
});
