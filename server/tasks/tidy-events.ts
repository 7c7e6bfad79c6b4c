import { deleteEvents, numberEvents } from '../db/feed.ts';
import type { Database } from '../db/open.ts';

const AT_ONCE = 5000;

/** Numbers what was staged while nobody followed, and deletes what is older than events are kept, in short transactions. */
export async function tidyEvents(db: Database, keepSeconds: number): Promise<void> {
  while ((await numberEvents(db, 0, AT_ONCE))?.moved === AT_ONCE);
  for (let after: number | undefined = 0; after !== undefined; ) {
    after = await deleteEvents(db, after, keepSeconds, AT_ONCE);
  }
}
