const TEXT = 25; // the type's oid
const HEAD = 20;

/**
 * A text[] in Postgres's binary form. The driver's own, a literal in which every quote of every payload is escaped, took a fifth of all that a put
 * allocates, and Postgres takes it apart character by character.
 */
export function textArray(texts: readonly string[]): Buffer {
  let size = HEAD;
  for (const text of texts) size += 4 + Buffer.byteLength(text);
  const array = Buffer.allocUnsafe(size);
  array.writeInt32BE(texts.length === 0 ? 0 : 1, 0); // dimensions
  array.writeInt32BE(0, 4); // no nulls
  array.writeInt32BE(TEXT, 8);
  if (texts.length === 0) return array.subarray(0, 12);
  array.writeInt32BE(texts.length, 12);
  array.writeInt32BE(1, 16); // the first one's index
  let at = HEAD;
  for (const text of texts) {
    const length = array.write(text, at + 4);
    array.writeInt32BE(length, at);
    at += 4 + length;
  }
  return array;
}
