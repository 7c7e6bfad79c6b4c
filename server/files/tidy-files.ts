import { tidyFiles } from '../db/files.ts';
import type { Database } from '../db/open.ts';

/** Removes, slice by slice, what is left of files and uploads that nobody reads any more. */
export async function tidyAllFiles(db: Database): Promise<void> {
  while ((await tidyFiles(db)) > 0);
}
