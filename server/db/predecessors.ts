import type { Database } from './open.ts';
import type { Swept } from './sweep-due.ts';

/** Of new workers: ends those that had their names on their hosts before. Gives what became of the tasks of these. */
export function endPredecessors(db: Database, workers: readonly string[]) {
  return db.call<Omit<Swept, 'swept_at'>>('end_predecessors', [workers], ['text[]']);
}
