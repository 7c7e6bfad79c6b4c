import type { IncomingMessage } from 'node:http';
import type { z } from 'zod';
import { beginFile, dropFile, finishFile, type StoredFile, tenantFileBytes } from '../db/files.ts';
import type { Database } from '../db/open.ts';
import { beginningOfForm, fileForm } from '../protocol/files.ts';
import { invalidParameter, refuse } from '../protocol/openai.ts';
import { checkBatchName, createBatchCheck } from './batch-content.ts';
import { writeBytes } from './bytes.ts';
import { fileTooLarge, readForm } from './multipart.ts';

export type FileLimits = {
  /** Of a file with purpose batch. */
  batchBytes: number;
  /** Of any other file. */
  fileBytes: number;
  /** Of all files of a tenant; null: none. */
  quotaBytes: number | null;
  /** Up to where the first line of a batch's file is looked into. */
  lineBytes: number;
};

/** Keeps the file of a multipart form, and shows it once all of it is there and found good. Throws what is wrong with it. */
export async function receiveFile(
  req: IncomingMessage,
  deps: { db: Database; limits: FileLimits; tenantId: number },
): Promise<StoredFile> {
  const { db, limits, tenantId } = deps;
  const { batchBytes, fileBytes, quotaBytes } = limits;
  const form = createForm();
  const check = createBatchCheck(limits.lineBytes);
  let fileNumber: string | undefined;
  let size = 0;

  // The purpose may come after the file: until then the file may be anything.
  const maxBytes = () =>
    form.purpose === undefined ? Math.max(batchBytes, fileBytes) : form.purpose === 'batch' ? batchBytes : fileBytes;
  const checkSoFar = () => {
    parse(beginningOfForm, form.value);
    if (form.purpose === 'batch' && form.filename !== undefined) checkBatchName(form.filename);
    if (size > maxBytes()) throw fileTooLarge(maxBytes());
  };

  try {
    await readForm(
      req,
      { fileField: 'file', maxFileBytes: maxBytes() },
      {
        field(name, value) {
          form.set(name, value);
          checkSoFar();
        },
        async file(filename, content) {
          form.filename = filename;
          checkSoFar();
          const room =
            quotaBytes === null ? Number.POSITIVE_INFINITY : quotaBytes - (await tenantFileBytes(db, tenantId));
          fileNumber = await beginFile(db, tenantId, filename);
          await writeBytes(db, fileNumber, content, (piece) => {
            size += piece.length;
            if (size > maxBytes()) throw fileTooLarge(maxBytes());
            if (size > room)
              throw refuse(
                413,
                `File quota exceeded: your files may have ${quotaBytes} bytes in all. Delete some first.`,
              );
            if (form.purpose === undefined || form.purpose === 'batch') check.push(piece);
          });
        },
      },
    );
    const { purpose, expires_after } = parse(fileForm, form.value);
    if (size === 0) throw refuse(400, 'File is empty.', 'file');
    const fault = purpose === 'batch' && check.fault();
    if (fault) throw fault;
    return await finishFile(db, fileNumber as unknown as string, purpose, expires_after?.seconds ?? null, quotaBytes);
  } catch (error) {
    // Where this fails as well, the file is removed as one that nobody writes to.
    if (fileNumber !== undefined) await dropFile(db, fileNumber).catch(() => undefined);
    throw error;
  }
}

const FIELDS = ['purpose', 'expires_after[anchor]', 'expires_after[seconds]'];

/** What has come of the form so far. Fields of other names are passed over. */
function createForm() {
  const fields = new Map<string, string>();
  return {
    filename: undefined as string | undefined,
    set(name: string, value: string): void {
      if (!FIELDS.includes(name)) return;
      if (fields.has(name)) throw refuse(400, `The field '${name}' was sent more than once.`, name);
      fields.set(name, value);
    },
    get purpose() {
      return fields.get('purpose');
    },
    get value() {
      const anchor = fields.get('expires_after[anchor]');
      const seconds = fields.get('expires_after[seconds]');
      return {
        file: this.filename,
        purpose: this.purpose,
        expires_after:
          anchor === undefined && seconds === undefined
            ? undefined
            : { anchor, seconds: /^-?\d{1,15}$/.test(seconds ?? '') ? Number(seconds) : seconds },
      };
    },
  };
}

function parse<Schema extends z.ZodType>(schema: Schema, form: unknown): z.output<Schema> {
  const parsed = schema.safeParse(form, { reportInput: true });
  if (!parsed.success) throw invalidParameter(parsed.error);
  return parsed.data;
}
