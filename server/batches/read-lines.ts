/** `end` is the byte after it, line break included. `text` is undefined where it is longer than it may be. */
export type InputLine = { number: number; end: number; text: string | undefined };

const NEWLINE = 0x0a;
const BOM = Buffer.from([0xef, 0xbb, 0xbf]);

/**
 * The lines of a file from byte `from` on, in groups of those that end in one chunk; blank lines are passed over, but counted. The last one
 * may lack its line break.
 * @param read gives the bytes of the chunk that holds a byte, from that byte on; undefined at the end
 * @param maxBytes of a line
 */
export async function* readLines(
  read: (at: number) => Promise<Buffer | undefined>,
  from: number,
  maxBytes: number,
): AsyncGenerator<InputLine[]> {
  let at = from;
  let number = 0;
  /** Of a line that goes on in the next chunk. */
  let begun: Buffer[] = [];
  let begunBytes = 0;

  const line = (last: Buffer, end: number): InputLine | undefined => {
    number++;
    const bytes = begunBytes + last.length;
    const whole = bytes > maxBytes ? undefined : begun.length === 0 ? last : Buffer.concat([...begun, last], bytes);
    const start = end - bytes;
    begun = [];
    begunBytes = 0;
    if (whole === undefined) return { number, end, text: undefined };
    const text = whole.subarray(start <= 1 && whole.indexOf(BOM) === 0 ? BOM.length : 0).toString('utf8');
    return text.trim() === '' ? undefined : { number, end, text };
  };

  for (;;) {
    const chunk = await read(at);
    if (!chunk) break;
    const lines: InputLine[] = [];
    let start = 0;
    for (let stop = chunk.indexOf(NEWLINE); stop !== -1; stop = chunk.indexOf(NEWLINE, start)) {
      const found = line(chunk.subarray(start, stop), at + stop + 1);
      if (found) lines.push(found);
      start = stop + 1;
    }
    begunBytes += chunk.length - start;
    // What is too long already is not kept.
    if (begunBytes > maxBytes) begun = [];
    else if (start < chunk.length) begun.push(chunk.subarray(start));
    at += chunk.length;
    if (lines.length > 0) yield lines;
  }
  if (begunBytes > 0) {
    const found = line(Buffer.alloc(0), at);
    if (found) yield [found];
  }
}
