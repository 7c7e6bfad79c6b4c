import type { DatabasePool, DatabasePoolConnection } from 'slonik';
import { isPassing, toTasklaneError } from './errors.ts';

type Held = {
  connection: DatabasePoolConnection;
  usedAt: number;
  /** Slonik has it back, or it broke. */
  gone: boolean;
  /** With an error, it is closed. */
  release(error?: unknown): void;
};
type Waiting = { resolve(held: Held): void; reject(error: unknown): void };

/** A burst's connections are closed when they have not been used for so long. */
const IDLE_MS = 60_000;

/**
 * The pool's connections, of those that are free the one that was used last. Slonik itself goes round all of them, and each then plans every function anew
 * and runs it with cold caches: a put a request at 300 a second cost Postgres 1.3 ms, and costs 0.96.
 */
export function createConnections(pool: DatabasePool, most: number) {
  /** The one used last stands last. */
  const free: Held[] = [];
  const waiting: Waiting[] = [];
  let open = 0;
  let closed = false;

  /** Takes a connection from Slonik until it is released, or breaks. */
  const hold = ({ resolve, reject }: Waiting): void => {
    open++;
    let held: Held | undefined;
    const over = (error?: unknown) => {
      open--;
      reject(error); // once it is held, this is told to nobody
      if (held) {
        held.gone = true;
        if (free.includes(held)) free.splice(free.indexOf(held), 1);
        held.release();
      }
      const next = waiting.shift();
      if (next) hold(next);
    };
    pool
      .connect(
        (connection) =>
          new Promise<void>((done, broken) => {
            held = {
              connection,
              usedAt: performance.now(),
              gone: false,
              release: (error) => (error === undefined ? done() : broken(error)),
            };
            resolve(held);
          }),
      )
      .then(() => over(), over);
  };

  const acquire = (): Promise<Held> =>
    new Promise((resolve, reject) => {
      const held = free.pop();
      if (held) resolve(held);
      else if (open < most) hold({ resolve, reject });
      else waiting.push({ resolve, reject });
    });

  const giveBack = (held: Held): void => {
    if (held.gone) return;
    held.usedAt = performance.now();
    const next = waiting.shift();
    if (next) next.resolve(held);
    else if (closed) held.release();
    else free.push(held);
  };

  const timer = setInterval(() => {
    const since = performance.now() - IDLE_MS;
    while (free[0] && free[0].usedAt < since) free.shift()?.release();
  }, IDLE_MS / 2);
  timer.unref();

  return {
    async use<R>(run: (connection: DatabasePoolConnection) => Promise<R>): Promise<R> {
      const held = await acquire();
      try {
        const result = await run(held.connection);
        giveBack(held);
        return result;
      } catch (error) {
        if (isPassing(toTasklaneError(error))) held.release(error);
        else giveBack(held);
        throw error;
      }
    },

    /** What is under way comes to its end first. */
    async close(): Promise<void> {
      closed = true;
      clearInterval(timer);
      for (const held of free.splice(0)) held.release();
      await pool.end();
    },
  };
}
