import assert from 'node:assert/strict';
import { isUtf8 } from 'node:buffer';
import { test } from 'node:test';
import fc from 'fast-check';
import { createBatchCheck } from '../../server/files/batch-content.ts';

const MOST = 1000;

/** What is said of these bytes when they come in pieces that end at `cuts`. */
function faultOf(bytes: Buffer, cuts: readonly number[] = [], maxLineBytes = MOST): string | undefined {
  const check = createBatchCheck(maxLineBytes);
  const ends = [...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
  let from = 0;
  for (const end of ends) {
    check.push(bytes.subarray(from, end));
    from = end;
  }
  return check.fault()?.message;
}

const NOT_UTF8 = 'Invalid file for Batch API. Must be utf-8 encoded';
const cuts = fc.array(fc.nat(), { maxLength: 12 });
/** Text that is mostly of several bytes a character, with some bytes of it changed. */
const almostUtf8 = fc
  .tuple(fc.string({ unit: 'grapheme', maxLength: 20 }), fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 2 }))
  .map(([text, changes]) => {
    const bytes = Buffer.from(`"${text}`);
    for (const [at, byte] of changes) bytes[at % bytes.length] = byte;
    return bytes;
  });

test('whatever the pieces, bytes are UTF-8 when the whole is', () => {
  fc.assert(
    fc.property(fc.oneof(almostUtf8, fc.uint8Array({ maxLength: 8 }).map(Buffer.from)), cuts, (bytes, at) => {
      assert.equal(faultOf(bytes, at) === NOT_UTF8, !isUtf8(bytes));
    }),
    { numRuns: 5000 },
  );
});

test('a character that never ends, begins in the middle or is no character is seen at every border', () => {
  for (const bad of [
    [0xf0, 0x9f, 0x91],
    [0x91, 0x8b],
    [0xc0, 0x80],
    [0xed, 0xa0, 0x80],
    [0xf5, 0x80, 0x80, 0x80],
    [0xff],
  ]) {
    const bytes = Buffer.from([0x22, ...bad, 0x22]);
    for (let cut = 0; cut <= bytes.length; cut++) assert.equal(faultOf(bytes, [cut]), NOT_UTF8, `${bad} ${cut}`);
    assert.equal(faultOf(bytes.subarray(0, -1)), NOT_UTF8);
  }
});

test('whatever the pieces, the first line that is not blank decides', () => {
  const line = fc.constantFrom('', ' ', '\t\r', '{"a":1}', ' [1] \r', '{"a"', '"ü"', 'x');
  fc.assert(
    fc.property(fc.boolean(), fc.array(line, { maxLength: 6 }), cuts, (bom, lines, at) => {
      const first = lines.findIndex((one) => one.trim() !== '');
      const fault = faultOf(Buffer.from((bom ? '\ufeff' : '') + lines.join('\n')), at);
      if (first < 0) assert.equal(fault, 'File is empty.');
      else if (['x', '{"a"'].includes(lines[first] as string))
        assert.match(fault ?? '', new RegExp(` Line ${first + 1} is not`));
      else assert.equal(fault, undefined);
    }),
    { numRuns: 5000 },
  );
});

test('a line as long as may be is looked into, and a longer one is not', () => {
  const line = (length: number) => Buffer.from('x'.repeat(length));
  assert.match(faultOf(line(MOST), [1, 500]) ?? '', /Line 1 /);
  assert.equal(faultOf(line(MOST + 1), [1, 500]), undefined);
  assert.match(faultOf(Buffer.concat([Buffer.alloc(2 * MOST, 10), line(3)])) ?? '', /Line 2001 /);
});
