import { ownerOf } from '../auth/auth.ts';
import { readFile } from '../db/files.ts';
import type { Database } from '../db/open.ts';
import { cancelUpload, createUpload, type Upload } from '../db/uploads.ts';
import { checkBatchName } from '../files/batch-content.ts';
import type { FileLimits } from '../files/files.ts';
import { fileTooLarge } from '../files/multipart.ts';
import { finishUpload, receivePart } from '../files/uploads.ts';
import { completeUploadBody, partFormContent, uploadBody } from '../protocol/files.ts';
import { fileJson, toSeconds } from './file-json.ts';
import { type Route, route } from './route.ts';

export function uploadRoutes({ db, fileLimits }: { db: Database; fileLimits: FileLimits }): Route[] {
  return [
    route({
      api: 'openai',
      method: 'post',
      path: '/v1/uploads',
      summary: 'Announce a file that comes in parts, within an hour',
      roles: ['client'],
      body: uploadBody,
      async handle({ body, principal }) {
        const { filename, purpose, mime_type: mimeType, bytes, expires_after } = body;
        if (purpose === 'batch') {
          checkBatchName(filename);
          if (bytes > fileLimits.batchBytes) throw fileTooLarge(fileLimits.batchBytes);
        }
        const announced = { filename, purpose, mimeType, bytes, expiresSeconds: expires_after?.seconds ?? null };
        return { json: uploadJson(await createUpload(db, principal.tenantId, announced, fileLimits.quotaBytes)) };
      },
    }),
    route({
      api: 'openai',
      method: 'post',
      path: '/v1/uploads/:id/parts',
      summary: 'Add a part, of at most 64 MiB',
      roles: ['client'],
      form: partFormContent,
      async handle({ params, principal, req }) {
        const uploadId = params.id as string;
        const part = await receivePart(req, { db, uploadId, owner: ownerOf(principal) });
        return {
          json: {
            object: 'upload.part',
            id: part.part_id,
            created_at: toSeconds(part.created_at),
            upload_id: uploadId,
          },
        };
      },
    }),
    route({
      api: 'openai',
      method: 'post',
      path: '/v1/uploads/:id/complete',
      summary: 'Make a file of the parts, in this order',
      roles: ['client'],
      body: completeUploadBody,
      async handle({ params, principal, body }) {
        const parts = { ids: body.part_ids, md5: body.md5 ?? null };
        const upload = await finishUpload(db, fileLimits.lineBytes, params.id as string, ownerOf(principal), parts);
        const file = await readFile(db, upload.file_number as string);
        return { json: uploadJson(upload, file && fileJson(file)) };
      },
    }),
    route({
      api: 'openai',
      method: 'post',
      path: '/v1/uploads/:id/cancel',
      summary: 'Give an upload up',
      roles: ['client'],
      async handle({ params, principal }) {
        return { json: uploadJson(await cancelUpload(db, params.id as string, ownerOf(principal))) };
      },
    }),
  ];
}

function uploadJson(upload: Upload, file: ReturnType<typeof fileJson> | null = null) {
  return {
    object: 'upload',
    id: upload.upload_id,
    bytes: upload.bytes,
    created_at: toSeconds(upload.created_at),
    expires_at: toSeconds(upload.expires_at),
    filename: upload.filename,
    purpose: upload.purpose,
    status: upload.status,
    file,
  };
}
