import { createPgDriverFactory } from '@slonik/pg-driver';
import { createPool, type DatabasePool, type PrimitiveValueExpression, sql } from 'slonik';
import { createConnections } from './connections.ts';
import { toTasklaneError } from './errors.ts';
import './pg-promises.ts';

type Row = Record<string, unknown>;
type Parameter = PrimitiveValueExpression | readonly PrimitiveValueExpression[];

export type Database = {
  /** Calls `tasklane.<name>`, arguments by position, and gives its rows. Throws TasklaneError. */
  call<R extends Row>(name: string, parameters: readonly Parameter[], types: readonly string[]): Promise<readonly R[]>;
  /** Runs a query written with `sql.unsafe`. Throws TasklaneError. */
  query<R extends Row>(query: ReturnType<typeof sql.unsafe>): Promise<readonly R[]>;
  close(): Promise<void>;
};

/** bigint as text: task ids need 60 bits, a double has 53. Times as epoch milliseconds. */
const TYPE_PARSERS = [
  { name: 'int8', parse: (value: string) => value },
  { name: 'numeric', parse: Number },
  { name: 'timestamptz', parse: toMilliseconds },
];

/** `prepare: false` where a pooler may give each call another session, which would not know what was prepared in the one before. */
export async function openDatabase(
  url: string,
  { maxConnections, prepare = true }: { maxConnections: number; prepare?: boolean },
): Promise<Database> {
  const pool: DatabasePool = await createPool(url, {
    driverFactory: createPgDriverFactory(),
    maximumPoolSize: maxConnections,
    idleTimeout: 60_000,
    connectionRetryLimit: 1,
    queryRetryLimit: 0, // the functions are not all safe to repeat; who calls decides
    // No call leaves anything behind in its session, so nothing needs resetting; DISCARD ALL would drop the prepared statements.
    resetConnection: () => Promise.resolve(undefined) as never,
    typeParsers: TYPE_PARSERS,
  });
  pool.on('error', () => undefined); // a lost connection shows as the failure of the next query on it

  const connections = createConnections(pool, maxConnections);

  const run = async <R extends Row>(query: ReturnType<typeof sql.unsafe> & { name?: string }) => {
    try {
      return (await connections.use((connection) => connection.any(query))) as unknown as readonly R[];
    } catch (error) {
      throw toTasklaneError(error);
    }
  };

  const calls = new Map<string, string>();
  return {
    query: run,
    call: (name, parameters, types) => {
      let text = calls.get(name);
      if (text === undefined) {
        text = `select * from tasklane.${name}(${types.map((type, index) => `$${index + 1}::${type}`).join(', ')})`;
        calls.set(name, text);
      }
      // Named, so that each connection prepares it once.
      return run({ ...EMPTY, sql: text, values: parameters as never, ...(prepare && { name }) });
    },
    close: connections.close,
  };
}

const EMPTY = sql.unsafe``;

function toMilliseconds(timestamp: string): number {
  if (timestamp === 'infinity') return Number.POSITIVE_INFINITY;
  if (timestamp === '-infinity') return Number.NEGATIVE_INFINITY;
  return Date.parse(timestamp);
}
