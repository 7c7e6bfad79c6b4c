import { appendChunk, readChunk } from '../db/files.ts';
import type { Database } from '../db/open.ts';
import { outlast } from '../db/outlast.ts';

/**
 * Bytes that are written in one call and kept in one row. A call costs about a millisecond besides its bytes, so smaller ones would be slower; who uploads or
 * downloads holds two of them in memory, so larger ones would cost that.
 */
const CHUNK_BYTES = 1024 * 1024;

/** Adds all of `content` to a file that is not finished. `check` sees each piece before it is written and throws what stops it. */
export async function writeBytes(
  db: Database,
  fileNumber: string,
  content: AsyncIterable<Buffer>,
  check: (piece: Buffer) => void,
): Promise<void> {
  let pieces: Buffer[] = [];
  let size = 0;
  const flush = async () => {
    const chunk = Buffer.concat(pieces, size);
    pieces = [];
    size = 0;
    await appendChunk(db, fileNumber, chunk);
  };
  for await (const piece of content) {
    check(piece);
    pieces.push(piece);
    size += piece.length;
    if (size >= CHUNK_BYTES) await flush();
  }
  if (size > 0) await flush();
}

/**
 * The bytes of a file from `from` up to `to` (exclusive), a chunk at a time. With `signal`, waits for the database while it is away, until that aborts.
 * Throws when the bytes are removed meanwhile.
 */
export async function* readBytes(
  db: Database,
  fileNumber: string,
  from: number,
  to: number,
  signal?: AbortSignal,
): AsyncGenerator<Buffer> {
  for (let at = from; at < to; ) {
    const read = () => readChunk(db, fileNumber, at);
    const chunk = await (signal ? outlast(read, signal) : read());
    if (!chunk) throw new Error(`file ${fileNumber} was removed while it was read`);
    const bytes = chunk.bytes.subarray(at - chunk.at, to - chunk.at);
    yield bytes;
    at += bytes.length;
  }
}
