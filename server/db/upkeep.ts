import type { Database } from './open.ts';

/** Makes the daily partitions of today and the week ahead, where they are missing. */
export async function makePartitions(db: Database): Promise<void> {
  await db.call('make_partitions', [], []);
}

/** Adds up the lanes' counts. */
export async function foldTallies(db: Database): Promise<void> {
  await db.call('fold_tallies', [], []);
}
