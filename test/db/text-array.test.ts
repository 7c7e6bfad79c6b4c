import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import pg from 'pg';
import { textArray } from '../../server/db/text-array.ts';
import { createDatabase } from '../support/database.ts';

let database: Awaited<ReturnType<typeof createDatabase>>;
let client: pg.Client;
before(async () => {
  database = await createDatabase();
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
});
after(async () => {
  await client.end();
  await database.drop();
});

const back = async (texts: readonly string[]) => {
  const { rows } = await client.query('select $1::text[] as texts', [textArray(texts)]);
  return rows[0].texts;
};

test('texts come to Postgres as they are, whatever is in them', async () => {
  assert.deepEqual(await back([]), []);
  assert.deepEqual(await back(['']), ['']);
  assert.deepEqual(await back(['NULL', '{"a":"\\"}', 'ä€😀', "'; drop table x"]), [
    'NULL',
    '{"a":"\\"}',
    'ä€😀',
    "'; drop table x",
  ]);
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.string({ unit: 'grapheme' }).map((text) => text.replaceAll('\0', ''))),
      async (texts) => {
        assert.deepEqual(await back(texts), texts);
      },
    ),
    { numRuns: 50 },
  );
});

test('a text with a NUL is refused as one, not cut off', async () => {
  await assert.rejects(back(['a\0b']), { code: '22021' });
});
