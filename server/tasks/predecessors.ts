import type { Logger } from 'pino';
import type { Database } from '../db/open.ts';
import { outlast } from '../db/outlast.ts';
import { endPredecessors } from '../db/predecessors.ts';
import type { Aftermath } from './aftermath.ts';

/**
 * Ends who had a new worker's name on its host before: a name is one process a host, so that one has died, and its tasks go back without waiting for
 * their leases. Never rejects.
 */
export function createPredecessors(db: Database, announce: Aftermath, log: Logger) {
  return async (worker: string): Promise<void> => {
    try {
      announce(await outlast(() => endPredecessors(db, [worker])));
    } catch (error) {
      log.error(
        { err: error, worker },
        'could not end the predecessor of a worker; its tasks go back when their leases lapse',
      );
    }
  };
}
