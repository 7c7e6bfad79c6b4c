import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { beginFile, dropFile } from '../db/files.ts';
import type { Database } from '../db/open.ts';
import {
  addPart,
  checkTakesParts,
  completeUpload,
  findUpload,
  orderedParts,
  type Upload,
  type UploadPart,
} from '../db/uploads.ts';
import { refuse } from '../protocol/openai.ts';
import { createBatchCheck } from './batch-content.ts';
import { readBytes, writeBytes } from './bytes.ts';
import { fileTooLarge, readForm } from './multipart.ts';

const MAX_PART_BYTES = 64 * 1024 * 1024;

/** Keeps the part in a multipart form. Throws 404 without such an upload, 400 when it takes no parts, 413 for a part over 64 MiB. */
export async function receivePart(
  req: IncomingMessage,
  deps: { db: Database; uploadId: string; owner: number | null },
): Promise<UploadPart> {
  const { db, uploadId, owner } = deps;
  let fileNumber: string | undefined;
  try {
    const tenantId = await checkTakesParts(db, uploadId, owner);
    let size = 0;
    await readForm(
      req,
      { fileField: 'data', maxFileBytes: MAX_PART_BYTES },
      {
        field: () => undefined,
        async file(_filename, content) {
          fileNumber = await beginFile(db, tenantId, uploadId);
          await writeBytes(db, fileNumber, content, (piece) => {
            size += piece.length;
            if (size > MAX_PART_BYTES) throw fileTooLarge(MAX_PART_BYTES);
          });
        },
      },
    );
    if (fileNumber === undefined)
      throw refuse(400, "Missing required parameter: 'data'.", 'data', 'missing_required_parameter');
    return await addPart(db, uploadId, owner, fileNumber);
  } catch (error) {
    req.resume();
    if (fileNumber !== undefined) await dropFile(db, fileNumber).catch(() => undefined);
    throw error;
  }
}

/** Makes a file of an upload's parts. Throws 404, 400 when it can't be completed so. */
export async function finishUpload(
  db: Database,
  maxLineBytes: number,
  uploadId: string,
  owner: number | null,
  parts: { ids: readonly string[]; md5: string | null },
): Promise<Upload> {
  const upload = await findUpload(db, uploadId, owner);
  if (upload?.status === 'pending') await checkContent(db, maxLineBytes, upload, parts);
  return completeUpload(db, uploadId, owner, parts.ids);
}

/** A part never changes, so what is found good here still is when the upload is completed. */
async function checkContent(
  db: Database,
  maxLineBytes: number,
  upload: Upload,
  { ids, md5 }: { ids: readonly string[]; md5: string | null },
): Promise<void> {
  const parts = await orderedParts(db, upload.upload_id, ids);
  const check = upload.purpose === 'batch' ? createBatchCheck(maxLineBytes) : undefined;
  const hash = md5 === null ? undefined : createHash('md5');
  if (!check && !hash) return;
  for (const part of parts) {
    for await (const bytes of readBytes(db, part.file_number, 0, Number(part.bytes))) {
      check?.push(bytes);
      hash?.update(bytes);
    }
  }
  const digest = hash?.digest('hex');
  if (digest !== md5?.toLowerCase()) {
    throw refuse(400, `The md5 of the parts is '${digest}', not '${md5}'.`, 'md5');
  }
  const fault = check?.fault();
  if (fault) throw fault;
}
