import type { IncomingMessage } from 'node:http';
import { Busboy, type BusboyFileStream } from '@fastify/busboy';
import { TasklaneError } from '../protocol/errors.ts';
import { refuse } from '../protocol/openai.ts';

const MAX_NAME = 100;
/** What a form may have around its file. */
const FORM_BYTES = 512 * 1024;
const LIMITS = { fieldSize: 4096, files: 1, parts: 20, headerPairs: 20, headerSize: 16_384 };
const FILES = 'Only one file may be sent.';
const PARTS = `The form has too many parts: ${LIMITS.parts} at most.`;
const MALFORMED = 'The body is not well-formed multipart/form-data.';

export const fileTooLarge = (maxBytes: number): TasklaneError =>
  refuse(413, `File is too large. It may have at most ${maxBytes} bytes.`);

/**
 * Reads a multipart form as it comes: `field` is called for each text field, `file` with the part named `fileField`, in the order in which they were sent.
 * What is sent waits until `file` has read what came before. Resolves when all is read and `file` has resolved; rejects with what a handler threw,
 * 400 for what is no such form, 413 for one that can only be too large, 415 for a compressed one. Either way nothing of it runs any more then.
 */
export async function readForm(
  req: IncomingMessage,
  options: { fileField: string; maxFileBytes: number },
  handlers: {
    field(name: string, value: string): void;
    file(filename: string, content: AsyncIterable<Buffer>): Promise<void>;
  },
): Promise<void> {
  const { fileField, maxFileBytes } = options;
  const form = parserOf(req, fileField, maxFileBytes);
  let content: BusboyFileStream | undefined;
  let storing: Promise<void> = Promise.resolve();

  await new Promise<void>((resolve, reject) => {
    let over = false;
    const fail = (error: Error) => {
      if (over) return;
      over = true;
      req.unpipe(form);
      // What is left is read and dropped, since most clients look for an answer only once they have sent it all.
      req.resume();
      content?.destroy(error);
      void storing.catch(() => undefined).then(() => reject(error));
    };
    const refuseForm = (message: string) => fail(refuse(400, message));

    form.on('file', (name: string | undefined, stream, filename: string | undefined) => {
      stream.on('error', () => undefined); // it also comes out of the iteration
      if (name !== fileField) {
        stream.resume();
        return;
      }
      content = stream;
      storing = handlers.file(filename || 'upload', stream);
      storing.catch(fail);
    });
    form.on('field', (name: string | undefined, value, _nameTruncated, truncated) => {
      if (name === undefined) return refuseForm(MALFORMED);
      if (name.length > MAX_NAME) return refuseForm(`A field's name may have at most ${MAX_NAME} characters.`);
      if (truncated) return refuseForm(`The field '${name}' is longer than ${LIMITS.fieldSize} bytes.`);
      try {
        handlers.field(name, value);
      } catch (error) {
        fail(error as Error);
      }
    });
    form.on('filesLimit', () => refuseForm(FILES));
    form.on('partsLimit', () => refuseForm(PARTS));
    form.on('error', () => refuseForm(MALFORMED));
    form.on('finish', () => {
      storing.then(() => {
        over = true;
        resolve();
      }, fail);
    });
    req.on('error', () => refuseForm('The request was cut off.'));
    req.on('close', () => {
      if (!req.complete) refuseForm('The request was cut off.');
    });
    req.pipe(form);
  });
}

function parserOf(req: IncomingMessage, fileField: string, maxFileBytes: number) {
  const { 'content-type': contentType = '', 'content-encoding': encoding = 'identity' } = req.headers;
  try {
    if (Number(req.headers['content-length']) > maxFileBytes + FORM_BYTES) throw fileTooLarge(maxFileBytes);
    if (encoding !== 'identity') throw new TasklaneError(415, `content-encoding ${encoding} is not supported`);
    if (!/^multipart\/form-data\s*(;|$)/i.test(contentType)) {
      throw refuse(
        400,
        `The body must be multipart/form-data, not ${contentType.slice(0, 100) || 'of no content type'}.`,
      );
    }
    return new Busboy({
      headers: { ...req.headers, 'content-type': contentType },
      limits: LIMITS,
      isPartAFile: (name, _type, filename) => name === fileField || filename !== undefined,
    });
  } catch (error) {
    req.resume();
    throw error instanceof TasklaneError ? error : refuse(400, `${MALFORMED} Its content type names no boundary.`);
  }
}
