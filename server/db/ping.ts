import { sql } from 'slonik';
import type { Database } from './open.ts';

/** Whether the database answers. */
export async function ping(db: Database): Promise<boolean> {
  try {
    await db.query(sql.unsafe`select 1 as up`);
    return true;
  } catch {
    return false;
  }
}
