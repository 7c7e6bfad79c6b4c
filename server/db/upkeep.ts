import { sql } from 'slonik';
import type { Database } from './open.ts';

/** Makes the daily partitions of today and so many days ahead, where they are missing. */
export async function makePartitions(db: Database, days: number): Promise<void> {
  await db.call('make_partitions', [days], ['int']);
}

/** Adds up the lanes' counts. */
export async function foldTallies(db: Database): Promise<void> {
  await db.call('fold_tallies', [], []);
}

/** Drops the partitions of the oldest day that nothing needs any more; false when there is none. */
export async function dropOldPartitions(db: Database): Promise<boolean> {
  const [row] = await db.call<{ drop_old_partitions: unknown }>('drop_old_partitions', [], []);
  return row?.drop_old_partitions !== null;
}

/** What retention removes one by one, in short calls; each is true while there is more to do at once. */
export const REMOVALS = ['remove_finished', 'trim_kept', 'remove_leftovers'] as const;

export async function remove(db: Database, removal: (typeof REMOVALS)[number]): Promise<boolean> {
  const [row] = await db.call<Record<string, boolean>>(removal, [], []);
  return row?.[removal] === true;
}

/** Forgets workers that were not seen for an hour. */
export async function forgetWorkers(db: Database): Promise<void> {
  await db.call('forget_workers', [], []);
}

/** How many deleted rows still lie in each of the tables whose rows live for seconds. */
export async function deadRows(db: Database): Promise<Map<string, number>> {
  const rows = await db.call<{ table_name: string; dead: string }>('dead_rows', [], []);
  return new Map(rows.map(({ table_name: table, dead }) => [table, Number(dead)]));
}

/** Vacuums one of them, if nobody else does. */
export async function vacuum(db: Database, table: string): Promise<void> {
  await db.query(
    sql.unsafe`vacuum (skip_locked, index_cleanup on, truncate off) ${sql.identifier(['tasklane', table])}`,
    'long',
  );
}
