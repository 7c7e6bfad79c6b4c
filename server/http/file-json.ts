import type { StoredFile } from '../db/files.ts';

/** Epoch seconds, as OpenAI's objects have them. */
export const toSeconds = (milliseconds: number): number => Math.floor(milliseconds / 1000);

/** A file as OpenAI's clients know it. */
export function fileJson(file: StoredFile) {
  return {
    object: 'file',
    id: file.file_id,
    purpose: file.purpose,
    filename: file.filename,
    bytes: file.bytes,
    created_at: toSeconds(file.created_at),
    expires_at: file.expires_at === null ? null : toSeconds(file.expires_at),
    status: 'processed',
    status_details: null,
  };
}
