import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import { badRequest, TasklaneError } from '../protocol/errors.ts';

/**
 * The request's body as text. Reads it itself: the usual parsers cost a put a fifth of its rate, and would not keep the text.
 * Throws 413 past `maxBytes`, 415 for a compressed body, 400 for text that is not UTF-8.
 */
export async function readBody(req: IncomingMessage, maxBytes: number): Promise<string> {
  const encoding = req.headers['content-encoding'];
  if (encoding !== undefined && encoding !== 'identity') {
    throw new TasklaneError(415, `content-encoding ${encoding} is not supported`);
  }
  if (Number(req.headers['content-length']) > maxBytes) {
    req.resume();
    throw tooLarge(maxBytes);
  }
  const body = await collect(req, maxBytes);
  if (!isUtf8(body)) throw badRequest('the body is not valid UTF-8');
  return body.toString('utf8');
}

function collect(req: IncomingMessage, maxBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    req.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size > maxBytes) {
        req.removeAllListeners('data');
        req.resume();
        reject(tooLarge(maxBytes));
      } else chunks.push(chunk);
    });
    req.on('end', () => resolve(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks, size)));
    req.on('error', reject);
    req.on('close', () => {
      if (!req.complete) reject(new TasklaneError(400, 'the request was cut off'));
    });
  });
}

// What is left of the body is read and dropped (resume), since most clients look for an answer only once they have sent it all.
const tooLarge = (maxBytes: number) => new TasklaneError(413, `the body is larger than ${maxBytes} bytes`);
