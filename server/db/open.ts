import { createPgDriverFactory } from '@slonik/pg-driver';
import { createPool, type DatabasePool, type PrimitiveValueExpression, sql } from 'slonik';
import { createConnections } from './connections.ts';
import { toTasklaneError } from './errors.ts';
import { CONNECT_MS, isLong, LONG_MS } from './limits.ts';
import { createLostSessions } from './lost-sessions.ts';
import './pg-promises.ts';
import { within } from './within.ts';

type Row = Record<string, unknown>;
type Parameter = PrimitiveValueExpression | readonly PrimitiveValueExpression[];

export type Database = {
  /** Calls `tasklane.<name>`, arguments by position, and gives its rows. Throws TasklaneError; 503 as well when the answer does not come in time. */
  call<R extends Row>(name: string, parameters: readonly Parameter[], types: readonly string[]): Promise<readonly R[]>;
  /** Runs a query written with `sql.unsafe`; `long`: one that may take a minute. Throws as `call`. */
  query<R extends Row>(query: ReturnType<typeof sql.unsafe>, long?: 'long'): Promise<readonly R[]>;
  /** For how many ms Postgres has not answered a call. */
  silentMs(): number;
  close(): Promise<void>;
};

/** bigint as text: task ids need 60 bits, a double has 53. Times as epoch milliseconds. */
const TYPE_PARSERS = [
  { name: 'int8', parse: (value: string) => value },
  { name: 'numeric', parse: Number },
  { name: 'timestamptz', parse: toMilliseconds },
];

const pgDriver = createPgDriverFactory();
/** A connection that takes too long to end is forgotten by its pool. What it says later must not end the process: an event `error` without a listener does. */
const driverFactory: typeof pgDriver = async (options) => {
  const { createClient } = await pgDriver(options);
  return {
    async createClient() {
      const client = await createClient();
      client.on('error', () => undefined);
      return client;
    },
  };
};

/**
 * `limitMs`: how long a call may take that has little to do. `prepare: false` where a pooler may give each call another session, which would not know what was
 * prepared in the one before.
 */
export async function openDatabase(
  url: string,
  { maxConnections, limitMs = 10_000, prepare = true }: { maxConnections: number; limitMs?: number; prepare?: boolean },
): Promise<Database> {
  const creating: Promise<DatabasePool> = createPool(url, {
    driverFactory,
    connectionTimeout: CONNECT_MS,
    gracefulTerminationTimeout: 1, // a connection that is given up waits for something that does not come
    maximumPoolSize: maxConnections,
    idleTimeout: 60_000,
    connectionRetryLimit: 1,
    queryRetryLimit: 0, // the functions are not all safe to repeat; who calls decides
    // No call leaves anything behind in its session, so nothing needs resetting; DISCARD ALL would drop the prepared statements.
    resetConnection: () => Promise.resolve(undefined) as never,
    typeParsers: TYPE_PARSERS,
  });
  const pool = await within(2 * CONNECT_MS, creating, 'connection timeout: Postgres gives no answer');
  pool.on('error', () => undefined); // a lost connection shows as the failure of the next query on it

  const connections = createConnections(pool, maxConnections, createLostSessions(url));
  const longMs = Math.max(LONG_MS, limitMs);

  const run = async <R extends Row>(query: ReturnType<typeof sql.unsafe> & { name?: string }, ms: number) => {
    try {
      return (await connections.use((connection) => connection.any(query), ms)) as unknown as readonly R[];
    } catch (error) {
      throw toTasklaneError(error);
    }
  };

  const calls = new Map<string, string>();
  return {
    query: (query, long) => run(query, long ? longMs : limitMs),
    call: (name, parameters, types) => {
      let text = calls.get(name);
      if (text === undefined) {
        text = `select * from tasklane.${name}(${types.map((type, index) => `$${index + 1}::${type}`).join(', ')})`;
        calls.set(name, text);
      }
      // Named, so that each connection prepares it once.
      return run(
        { ...EMPTY, sql: text, values: parameters as never, ...(prepare && { name }) },
        isLong(name, parameters) ? longMs : limitMs,
      );
    },
    silentMs: () => performance.now() - connections.answeredAt(),
    close: connections.close,
  };
}

const EMPTY = sql.unsafe``;

function toMilliseconds(timestamp: string): number {
  if (timestamp === 'infinity') return Number.POSITIVE_INFINITY;
  if (timestamp === '-infinity') return Number.NEGATIVE_INFINITY;
  return Date.parse(timestamp);
}
