import assert from 'node:assert/strict';
import { createReadStream, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import OpenAI7 from 'openai';
import OpenAI6 from 'openai-6';
import { fixture } from './fixture.ts';

const f = fixture({ TASKLANE_BATCH_MAX_BYTES: '100000' });
const LINES = '{"custom_id":"a"}\n{"custom_id":"Grüezi 👋"}\n';

for (const [name, OpenAI] of [
  ['openai 7', OpenAI7],
  ['openai 6', OpenAI6 as unknown as typeof OpenAI7],
] as const) {
  describe(name, () => {
    let client: OpenAI7;
    let folder: string;
    before(async () => {
      const apiKey = await f.server.key('client', name.replace(' ', '-'));
      client = new OpenAI({ apiKey, baseURL: `${f.server.url}/v1`, maxRetries: 0 });
      folder = mkdtempSync(join(tmpdir(), 'tasklane-sdk-'));
    });
    after(() => rmSync(folder, { recursive: true }));

    test('files are created from a stream, from bytes and from a File', async () => {
      const path = join(folder, 'jobs "1" ü.jsonl');
      writeFileSync(path, LINES);
      const bytes = Buffer.from(LINES);
      const sources = {
        'jobs %221%22 ü.jsonl': createReadStream(path),
        'bytes.jsonl': await OpenAI.toFile(bytes, 'bytes.jsonl'),
        'file.jsonl': new File([bytes], 'file.jsonl', { type: 'application/jsonl' }),
      };
      for (const [filename, file] of Object.entries(sources)) {
        const made = await client.files.create({ file, purpose: 'batch' });
        assert.deepEqual([made.filename, made.bytes, made.status], [filename, bytes.length, 'processed']);
        assert.deepEqual(await client.files.retrieve(made.id), made);
        assert.deepEqual(await client.files.waitForProcessing(made.id), made);
        const content = await client.files.content(made.id);
        assert.equal(await content.text(), LINES);
        assert.deepEqual(await client.files.delete(made.id), { id: made.id, object: 'file', deleted: true });
        await assert.rejects(client.files.retrieve(made.id), { status: 404, param: 'id' });
      }
    });

    test('what a client chooses arrives, and a refusal has its class, parameter and code', async () => {
      const file = await OpenAI.toFile(Buffer.from(LINES), 'jobs.jsonl');
      const seconds = 7200;
      const made = await client.files.create({
        file,
        purpose: 'batch',
        expires_after: { anchor: 'created_at', seconds },
      });
      assert.equal(made.expires_at, made.created_at + seconds);
      const soon = { anchor: 'created_at', seconds: 60 } as const;
      const refused = client.files.create({ file, purpose: 'batch', expires_after: soon });
      await assert.rejects(refused, (error) => {
        assert.ok(error instanceof OpenAI.BadRequestError);
        assert.deepEqual([error.param, error.code], ['expires_after.seconds', 'integer_below_min_value']);
        assert.match(error.requestID ?? '', /^req_/);
        return true;
      });
      writeFileSync(join(folder, 'large.jsonl'), Buffer.alloc(2_000_000, 10));
      const large = client.files.create({ file: createReadStream(join(folder, 'large.jsonl')), purpose: 'batch' });
      await assert.rejects(large, { status: 413 });
    });

    test('for await goes through all pages, and stays on its way when it deletes', async () => {
      for (const { id } of (await client.files.list()).data) await client.files.delete(id);
      const made = [];
      for (let i = 0; i < 5; i++) {
        const file = await OpenAI.toFile(Buffer.from('x'), `${i}.txt`);
        made.push((await client.files.create({ file, purpose: 'user_data' })).id);
      }
      const seen = [];
      for await (const { id } of client.files.list({ limit: 2, order: 'asc', purpose: 'user_data' })) seen.push(id);
      assert.deepEqual(seen, made);
      for await (const { id } of client.files.list({ limit: 2 })) await client.files.delete(id);
      assert.deepEqual((await client.files.list()).data, []);
    });

    test('a file is uploaded in parts', async () => {
      const bytes = Buffer.from(LINES);
      const upload = await client.uploads.create({
        bytes: bytes.length,
        filename: 'jobs.jsonl',
        mime_type: 'application/jsonl',
        purpose: 'batch',
      });
      const parts = await Promise.all(
        [bytes.subarray(0, 10), bytes.subarray(10)].map(async (part) =>
          client.uploads.parts.create(upload.id, { data: await OpenAI.toFile(part, 'part') }),
        ),
      );
      const part_ids = parts.map(({ id }) => id);
      const done = await client.uploads.complete(upload.id, { part_ids });
      assert.equal(done.status, 'completed');
      assert.equal(await (await client.files.content(done.file?.id as string)).text(), LINES);
      const other = await client.uploads.create({ ...upload, mime_type: 'text/plain', purpose: 'user_data' });
      assert.equal((await client.uploads.cancel(other.id)).status, 'cancelled');
    });
  });
}
