import { sql } from 'slonik';
import type { Database } from './open.ts';

/** A file that can be read. Times are epoch milliseconds. */
export type StoredFile = {
  file_number: string;
  file_id: string;
  tenant_id: number;
  filename: string;
  purpose: string;
  bytes: number;
  created_at: number;
  /** null: never. */
  expires_at: number | null;
};
type Row = Omit<StoredFile, 'bytes'> & { bytes: string };

const sized = (row: Row): StoredFile => ({ ...row, bytes: Number(row.bytes) });

/** Begins a file, which nobody sees until it is finished, and gives its number. */
export async function beginFile(db: Database, tenantId: number, filename: string): Promise<string> {
  const [row] = await db.call<{ begin_file: string }>('begin_file', [tenantId, filename], ['int', 'text']);
  return (row as { begin_file: string }).begin_file;
}

/** Adds bytes at the end of a file that is not finished. Throws 409 when it is, or was removed. */
export async function appendChunk(db: Database, fileNumber: string, bytes: Buffer): Promise<void> {
  await db.call('append_chunk', [fileNumber, bytes], ['bigint', 'bytea']);
}

/** Shows a file that is complete. `quota` is how many bytes its tenant may have in all; null: any. Throws 413 when it would have more. */
export async function finishFile(
  db: Database,
  fileNumber: string,
  purpose: string,
  expiresSeconds: number | null,
  quota: number | null,
): Promise<StoredFile> {
  const [row] = await db.call<Row>(
    'finish_file',
    [fileNumber, purpose, expiresSeconds, quota],
    ['bigint', 'text', 'int', 'bigint'],
  );
  return sized(row as Row);
}

/** Gives up a file that is not finished. */
export async function dropFile(db: Database, fileNumber: string): Promise<void> {
  await db.call('drop_file', [fileNumber], ['bigint']);
}

/** How many bytes a tenant has in files, and has announced to upload in parts. */
export async function tenantFileBytes(db: Database, tenantId: number): Promise<number> {
  const [row] = await db.call<{ tenant_file_bytes: string }>('tenant_file_bytes', [tenantId], ['int']);
  return Number(row?.tenant_file_bytes);
}

/** The file of that tenant, or of any where it is null; undefined when there is none, or no longer. */
export async function findFile(db: Database, fileId: string, tenantId: number | null): Promise<StoredFile | undefined> {
  const [row] = await db.call<Row>('find_file', [fileId, tenantId], ['text', 'int']);
  return row && sized(row);
}

/** The same by its number. */
export async function readFile(db: Database, fileNumber: string): Promise<StoredFile | undefined> {
  const [row] = await db.query<Row>(
    sql.unsafe`select * from tasklane.file f where file_number = ${fileNumber}::bigint and tasklane.is_live(f)`,
  );
  return row && sized(row);
}

/** Files beyond the file with the number `after`, the newest or the oldest first. */
export async function listFiles(
  db: Database,
  tenantId: number | null,
  purpose: string | null,
  after: string | null,
  descending: boolean,
  limit: number,
): Promise<StoredFile[]> {
  const rows = await db.call<Row>(
    'list_files',
    [tenantId, purpose, after, descending, limit],
    ['int', 'text', 'bigint', 'boolean', 'int'],
  );
  return rows.map(sized);
}

/** The number of a file of that tenant which is there, or was until an hour ago. */
export async function fileNumberOf(db: Database, fileId: string, tenantId: number | null): Promise<string | undefined> {
  const [row] = await db.query<{ file_number: string }>(sql.unsafe`
    select file_number from tasklane.file
    where file_id = ${fileId} and ready and (${tenantId}::int is null or tenant_id = ${tenantId}::int)`);
  return row?.file_number;
}

/** Hides a file; false when there was none. */
export async function deleteFile(db: Database, fileId: string, tenantId: number | null): Promise<boolean> {
  return (await db.call('delete_file', [fileId, tenantId], ['text', 'int'])).length > 0;
}

/** The chunk that holds the byte `at` of a file, finished or not; undefined beyond its end. */
export async function readChunk(
  db: Database,
  fileNumber: string,
  at: number,
): Promise<{ at: number; bytes: Buffer } | undefined> {
  const pieces = await db.call<{ at: string; bytes: Buffer }>('read_pieces', [fileNumber, at], ['bigint', 'bigint']);
  const [first] = pieces;
  return first && { at: Number(first.at), bytes: Buffer.concat(pieces.map((piece) => piece.bytes)) };
}

/** Removes a slice of what nobody reads any more, and says how much that was. */
export async function tidyFiles(db: Database): Promise<number> {
  const [row] = await db.call<{ tidy_files: number }>('tidy_files', [], []);
  return row?.tidy_files ?? 0;
}
