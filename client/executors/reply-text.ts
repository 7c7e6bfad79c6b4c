import type { IncomingMessage } from 'node:http';
import { pipeline, type Readable, type Transform } from 'node:stream';
// As a whole: older versions of Node have no zstd to import.
import zlib from 'node:zlib';
import { TooLarge } from '../worker/too-large.ts';

const DECODERS: Record<string, (() => Transform) | undefined> = {
  gzip: () => zlib.createGunzip(),
  'x-gzip': () => zlib.createGunzip(),
  deflate: () => zlib.createInflate(),
  br: () => zlib.createBrotliDecompress(),
  zstd: zlib.createZstdDecompress && (() => zlib.createZstdDecompress()),
};

/**
 * The parts of a reply's text as they come, without a byte order mark, and without the codings that a gateway may have put on it though we asked for none.
 * Throws when it breaks off. Who leaves before the end closes the connection.
 */
export async function* textOf(reply: IncomingMessage): AsyncGenerator<string, void> {
  const decoder = new TextDecoder();
  for await (const bytes of decoded(reply)) {
    const text = decoder.decode(bytes as Buffer, { stream: true });
    if (text !== '') yield text;
  }
  const rest = decoder.decode();
  if (rest !== '') yield rest;
}

/** The codings are named in the order in which they were put on. */
function decoded(reply: IncomingMessage): Readable {
  const names = String(reply.headers['content-encoding'] ?? '').toLowerCase();
  const codings = names.split(',').map((name) => name.trim());
  return codings.reduceRight<Readable>((from, coding) => {
    if (coding === '' || coding === 'identity') return from;
    const decoder = Object.hasOwn(DECODERS, coding) ? DECODERS[coding]?.() : undefined;
    if (decoder === undefined) {
      reply.destroy();
      throw new Error(`the answer comes in a coding that we did not ask for and do not know: ${coding.slice(0, 40)}`);
    }
    return pipeline(from, decoder, () => undefined);
  }, reply);
}

/** All of a text. Throws TooLarge, and reads no further, where it has more bytes than that. */
export async function wholeOf(parts: AsyncIterable<string>, maxBytes: number): Promise<string> {
  let text = '';
  let bytes = 0;
  for await (const part of parts) {
    bytes += Buffer.byteLength(part);
    if (bytes > maxBytes) throw new TooLarge(maxBytes);
    text += part;
  }
  return text;
}

/** The beginning of a text, of some characters. Reads no further. */
export async function beginningOf(parts: AsyncIterable<string>, characters: number): Promise<string> {
  let text = '';
  for await (const part of parts) {
    text += part;
    if (text.length >= characters) return text.slice(0, characters);
  }
  return text;
}

/** A text that somebody may have to look into before it is known what it is, and the whole of it all the same. */
export async function peek(
  parts: AsyncIterable<string>,
  isEnough: (start: string) => boolean,
): Promise<{ start: string; parts: AsyncIterable<string> }> {
  const iterator = parts[Symbol.asyncIterator]();
  let start = '';
  while (!isEnough(start)) {
    const next = await iterator.next();
    if (next.done) break;
    start += next.value;
  }
  const all = async function* () {
    try {
      yield start;
      yield* { [Symbol.asyncIterator]: () => iterator };
    } finally {
      await iterator.return?.();
    }
  };
  return { start, parts: all() };
}
