import pg from 'pg';
import { LimitedClient } from './client.ts';

/** A job's own statements are short, but for graphile-worker's migrations and what waits for those of another server. */
const LIMIT_MS = 30_000;
const WAIT_MS = 10_000;

/** The connections of the background jobs' own bookkeeping. */
export function createJobsPool(url: string, max: number): pg.Pool {
  class JobsClient extends LimitedClient {
    constructor() {
      super({ connectionString: url, application_name: 'tasklane jobs', limitMs: LIMIT_MS });
    }
  }
  const pool = new pg.Pool({ max, connectionTimeoutMillis: WAIT_MS, Client: JobsClient });
  // A lost connection shows as the failure of the next statement.
  pool.on('error', () => undefined);
  pool.on('connect', () => undefined);
  return pool;
}
