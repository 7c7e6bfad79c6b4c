import { type DatabasePool, type DatabasePoolConnection, sql } from 'slonik';
import { unavailable } from '../protocol/errors.ts';
import { losesConnection, toTasklaneError } from './errors.ts';
import { CONNECT_MS, STATEMENT_TIMEOUT } from './limits.ts';
import type { LostSessions } from './lost-sessions.ts';
import { sessionSettings } from './session.ts';
import { within } from './within.ts';

type Held = {
  connection: DatabasePoolConnection;
  /** Of its session. */
  pid: number;
  usedAt: number;
  /** Slonik has it back, or it broke. */
  gone: boolean;
  /** With an error, it is closed, whatever it waits for. */
  release(error?: unknown): void;
};
type Waiting = { resolve(held: Held): void; reject(error: unknown): void };

/** A burst's connections are closed when they have not been used for so long. */
const IDLE_MS = 60_000;
/** While Postgres gives us no more connections, it is asked so often. */
const GROW_AGAIN_MS = 1000;
/** What is under way when the server stops has so long. */
const CLOSE_MS = 1500;

const SESSION = { ...sql.unsafe``, sql: sessionSettings(STATEMENT_TIMEOUT) };

/**
 * The pool's connections, of those that are free the one that was used last. Slonik itself goes round all of them, and each then plans every function anew
 * and runs it with cold caches: a put a request at 300 a second cost Postgres 1.3 ms, and costs 0.96.
 * A call that has no answer in time fails, and takes its connection with it; while Postgres keeps the session, that counts as one of ours.
 */
export function createConnections(pool: DatabasePool, most: number, lost: LostSessions) {
  /** The one used last stands last. */
  const free: Held[] = [];
  const waiting: Waiting[] = [];
  let opening = 0;
  let held = 0;
  let refusedAt = Number.NEGATIVE_INFINITY;
  let answeredAt = Number.NEGATIVE_INFINITY;
  let closed = false;
  let onAllBack: (() => void) | undefined;

  const drop = (one: Held, error: unknown): void => {
    if (free.includes(one)) free.splice(free.indexOf(one), 1);
    one.release(error);
  };

  const giveBack = (one: Held): void => {
    if (one.gone) return;
    one.usedAt = performance.now();
    const next = waiting.shift();
    if (next) next.resolve(one);
    else if (closed) one.release();
    else free.push(one);
  };

  /** Opens one more connection, for who waits longest by then. */
  const grow = (): void => {
    opening++;
    let mine: Held | undefined;
    const over = (error: unknown) => {
      if (mine) {
        held--;
        mine.gone = true;
        drop(mine, error);
        if (held === 0) onAllBack?.();
      } else {
        opening--;
        // Where there are others, their turn comes.
        refusedAt = performance.now();
        if (held === 0) waiting.shift()?.reject(error);
      }
      growIfNeeded();
    };
    pool
      .connect(async (connection) => {
        const settings = connection.one(SESSION) as Promise<{ pid: number }>;
        const { pid } = await within(CONNECT_MS, settings, 'connection timeout: its first statement had no answer');
        opening--;
        held++;
        return new Promise<void>((done, broken) => {
          const release = (error?: unknown) => (error === undefined ? done() : broken(error));
          mine = { connection, pid, usedAt: 0, gone: false, release };
          giveBack(mine);
        });
      })
      .then(() => over(undefined), over);
  };

  const growIfNeeded = (): void => {
    if (waiting.length <= opening || held + opening + lost.count() >= most) return;
    if (held === 0 || performance.now() - refusedAt > GROW_AGAIN_MS) grow();
  };

  const timer = setInterval(() => {
    const since = performance.now() - IDLE_MS;
    while (free[0] && free[0].usedAt < since) free.shift()?.release();
    growIfNeeded();
  }, GROW_AGAIN_MS);
  timer.unref();

  return {
    /** Lends a connection to `run`. Throws 503 when that takes longer than `ms`, the wait for a connection included. */
    async use<R>(run: (connection: DatabasePoolConnection) => Promise<R>, ms: number): Promise<R> {
      const began = performance.now();
      let mine = free.pop();
      let late: Error | undefined;
      let giveUp: ((error: unknown) => void) | undefined;
      const limit = setTimeout(() => {
        late = unavailable(new Error(`Postgres gave no answer within ${ms / 1000} s`));
        if (!mine) return giveUp?.(late);
        void lost.add(mine.pid).then(growIfNeeded);
        drop(mine, late);
        // What has been silent for as long may be as dead.
        for (const other of free.filter(({ usedAt }) => usedAt < began)) drop(other, late);
      }, ms);
      try {
        mine ??= await new Promise<Held>((resolve, reject) => {
          const place = { resolve, reject };
          giveUp = (error) => {
            waiting.splice(waiting.indexOf(place), 1);
            reject(error);
          };
          waiting.push(place);
          growIfNeeded();
        });
        const result = await run(mine.connection);
        answeredAt = performance.now();
        giveBack(mine);
        return result;
      } catch (error) {
        if (late) throw late;
        if (mine && losesConnection(toTasklaneError(error))) drop(mine, error);
        else if (mine) giveBack(mine);
        throw error;
      } finally {
        clearTimeout(limit);
      }
    },

    /** When Postgres last answered a call (performance.now). */
    answeredAt: (): number => answeredAt,

    /** What is under way has a moment to come to its end. */
    async close(): Promise<void> {
      closed = true;
      clearInterval(timer);
      const back = new Promise<void>((resolve) => {
        onAllBack = resolve;
      });
      for (const one of free.splice(0)) one.release();
      if (held > 0) await within(CLOSE_MS, back, '').catch(() => undefined);
      await pool.end();
    },
  };
}
