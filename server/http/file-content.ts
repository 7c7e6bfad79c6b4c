import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import type { StoredFile } from '../db/files.ts';
import type { Database } from '../db/open.ts';
import { readBytes } from '../files/bytes.ts';
import { refuse } from '../protocol/openai.ts';
import { hangUp } from './give-up.ts';
import { idHeaders } from './route.ts';

/**
 * Answers with a file's bytes, chunk by chunk as the client takes them; with the range that it asks for, or 304 where it has them. Throws 416 for a range
 * beyond the end. When the bytes can't all be read, the connection breaks, so that nobody takes the part for the whole.
 */
export async function sendContent(
  req: IncomingMessage,
  res: ServerResponse,
  db: Database,
  file: StoredFile,
): Promise<void> {
  // What an id names never changes.
  const etag = `"${file.file_id}"`;
  const headers = { ...idHeaders(res), ETag: etag, 'Accept-Ranges': 'bytes' };
  if (hasTag(req.headers['if-none-match'], etag)) {
    res.writeHead(304, headers).end();
    return;
  }
  const range = rangeOf(req.headers, etag, file.bytes);
  const { from, to } = range ?? { from: 0, to: file.bytes };
  res.writeHead(range ? 206 : 200, {
    'Content-Type': 'application/octet-stream',
    'Content-Disposition': disposition(file.filename),
    'X-Content-Type-Options': 'nosniff',
    'Content-Length': to - from,
    ...(range && { 'Content-Range': `bytes ${from}-${to - 1}/${file.bytes}` }),
    ...headers,
  });
  if (req.method === 'HEAD') {
    res.end();
    return;
  }
  const gone = hangUp(res);
  await pipeline(readBytes(db, file.file_number, from, to, gone), res).catch((error) => {
    if (!gone.aborted) throw error;
  });
}

/** Where the one range that is asked for begins and ends; undefined where none is, or several are, or it is of another file. */
function rangeOf(headers: IncomingHttpHeaders, etag: string, bytes: number): { from: number; to: number } | undefined {
  const [, first = '', last = ''] = /^bytes=(\d*)-(\d*)$/.exec(headers.range?.replaceAll(' ', '') ?? '') ?? [];
  const ifRange = headers['if-range'];
  if ((first === '' && last === '') || (ifRange !== undefined && ifRange !== etag)) return undefined;
  const from = first === '' ? Math.max(0, bytes - Number(last)) : Number(first);
  const to = first === '' || last === '' ? bytes : Math.min(bytes, Number(last) + 1);
  if (first !== '' && last !== '' && Number(last) < Number(first)) return undefined;
  if (from < to) return { from, to };
  const refused = refuse(416, `The file has ${bytes} bytes, and the range is beyond them.`);
  refused.headers['Content-Range'] = `bytes */${bytes}`;
  throw refused;
}

function hasTag(ifNoneMatch: string | undefined, etag: string): boolean {
  const tags = (ifNoneMatch ?? '').split(',').map((tag) => tag.trim().replace(/^W\//, ''));
  return tags.includes(etag) || tags.includes('*');
}

/** As a download of that name; for names that a header can't hold as they are, twice, as RFC 6266 says. */
function disposition(filename: string): string {
  const plain = filename.replaceAll(/[^\x20-\x7e]|["\\]/g, '_');
  if (plain === filename) return `attachment; filename="${plain}"`;
  const encoded = encodeURIComponent(filename.toWellFormed()).replaceAll(
    /['()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16)}`,
  );
  return `attachment; filename="${plain}"; filename*=UTF-8''${encoded}`;
}
