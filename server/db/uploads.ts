import type { Database } from './open.ts';

/** Times are epoch milliseconds. */
export type Upload = {
  upload_id: string;
  tenant_id: number;
  filename: string;
  purpose: string;
  bytes: number;
  status: 'pending' | 'completed' | 'cancelled' | 'expired';
  /** Of the file that came of it. */
  file_number: string | null;
  created_at: number;
  expires_at: number;
};
type Row = Omit<Upload, 'bytes'> & { bytes: string };

export type UploadPart = { part_id: string; created_at: number };
/** A part in its place: `at` is where in the whole file its first byte is. */
export type PlacedPart = { file_number: string; at: string; bytes: string };

const sized = (row: Row | undefined): Upload => ({ ...(row as Row), bytes: Number(row?.bytes) });

/** Announces a file that comes in parts. Throws 413 when it would be over the quota. */
export async function createUpload(
  db: Database,
  tenantId: number,
  announced: { filename: string; purpose: string; mimeType: string; bytes: number; expiresSeconds: number | null },
  quota: number | null,
): Promise<Upload> {
  const { filename, purpose, mimeType, bytes, expiresSeconds } = announced;
  const [row] = await db.call<Row>(
    'create_upload',
    [tenantId, filename, purpose, mimeType, bytes, expiresSeconds, quota],
    ['int', 'text', 'text', 'text', 'bigint', 'int', 'bigint'],
  );
  return sized(row);
}

export async function findUpload(db: Database, uploadId: string, tenantId: number | null): Promise<Upload | undefined> {
  const [row] = await db.call<Row>('find_upload', [uploadId, tenantId], ['text', 'int']);
  return row && sized(row);
}

/** The tenant of an upload that takes parts. Throws 404 when there is none, 400 when it takes none. */
export async function checkTakesParts(db: Database, uploadId: string, tenantId: number | null): Promise<number> {
  const [row] = await db.call<Row>('check_takes_parts', [uploadId, tenantId], ['text', 'int']);
  return sized(row).tenant_id;
}

/** Makes a file that is complete but not finished a part. Throws as `checkTakesParts`, and 400 when there are too many parts or bytes. */
export async function addPart(
  db: Database,
  uploadId: string,
  tenantId: number | null,
  fileNumber: string,
): Promise<UploadPart> {
  const [row] = await db.call<UploadPart>('add_part', [uploadId, tenantId, fileNumber], ['text', 'int', 'bigint']);
  return row as UploadPart;
}

/** The parts in this order. Throws 400 when they are not the upload's, or don't have as many bytes as it was announced with. */
export function orderedParts(db: Database, uploadId: string, partIds: readonly string[]) {
  return db.call<PlacedPart>('ordered_parts', [uploadId, partIds], ['text', 'text[]']);
}

/** Makes a file of the parts. Throws 404, 400 when it can't be completed so. */
export async function completeUpload(
  db: Database,
  uploadId: string,
  tenantId: number | null,
  partIds: readonly string[],
): Promise<Upload> {
  const [row] = await db.call<Row>('complete_upload', [uploadId, tenantId, partIds], ['text', 'int', 'text[]']);
  return sized(row);
}

/** Gives an upload up. Throws 404, 400 when it is completed or expired. */
export async function cancelUpload(db: Database, uploadId: string, tenantId: number | null): Promise<Upload> {
  const [row] = await db.call<Row>('cancel_upload', [uploadId, tenantId], ['text', 'int']);
  return sized(row);
}
