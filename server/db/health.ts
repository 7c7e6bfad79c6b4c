import { sql } from 'slonik';
import { LimitedClient } from './client.ts';
import type { Database } from './open.ts';
import { within } from './within.ts';

export type Health = { status: 'UP' } | { status: 'DOWN'; reason: string };

const UP: Health = { status: 'UP' };
const down = (reason: string): Health => ({ status: 'DOWN', reason });

/** Whoever asks has an answer within two seconds: after the first of these it is looked for what is waited for. */
const WRITE_MS = 1200;
const LOOK_MS = 600;
const PING_MS = 1500;
/** So long an answer holds for others who ask. */
const FRESH_MS = 1000;

/** What Postgres does at the moment, in words. However many ask, one call is under way for each of the two questions. */
export function createHealth(deps: { db: Database; url: string; instance: string; stopping: AbortSignal }) {
  const { db, url, instance, stopping } = deps;

  /** Late because the pool is busy: others have had answers since. */
  const isBusy = (began: number) => db.silentMs() < performance.now() - began;

  const ping = share(async (): Promise<Health> => {
    const began = performance.now();
    try {
      await within(PING_MS, db.query(sql.unsafe`select 1 as up`), LATE);
      return UP;
    } catch (error) {
      return isLate(error) && isBusy(began) ? UP : down(reasonOf(error));
    }
  });

  // A write that hangs goes on to its own limit: a new one each time would be one more that hangs.
  let writing: Promise<unknown> | undefined;
  const write = () => {
    writing ??= db.call('try_write', [instance], ['text']).finally(() => {
      writing = undefined;
    });
    return writing;
  };
  const ready = share(async (): Promise<Health> => {
    const began = performance.now();
    try {
      await within(WRITE_MS, write(), LATE);
      return UP;
    } catch (error) {
      // Without a code it had no answer in time.
      if ((codeOf(error) ?? LOCKED) !== LOCKED) return down(reasonOf(error));
      try {
        const waits = await within(LOOK_MS, look(url), LATE);
        if (waits !== undefined) return down(waits);
        return isLate(error) && isBusy(began) ? UP : down(reasonOf(error));
      } catch (why) {
        return down(reasonOf(why));
      }
    }
  });

  return {
    /** Whether the database answers. */
    ping,
    /** Whether a put would be written, or why not. */
    ready: async (): Promise<Health> => (stopping.aborted ? down('the server is stopping') : ready()),
  };
}
export type HealthChecks = ReturnType<typeof createHealth>;

/** Those who ask meanwhile, and soon after, have the same answer. */
function share(ask: () => Promise<Health>): () => Promise<Health> {
  let answer: Promise<Health> | undefined;
  return () => {
    answer ??= ask().finally(() => setTimeout(forget, FRESH_MS).unref());
    return answer;
  };
  function forget() {
    answer = undefined;
  }
}

type Blocked = {
  standby: boolean;
  relation: string | null;
  seconds: number;
  holder_pid: number | null;
  holder: string | null;
  holder_state: string | null;
  holder_since: Date | null;
};

/** What sessions wait for, on a connection of its own, since those of the pool may all wait. */
async function look(url: string): Promise<string | undefined> {
  const client = new LimitedClient({ connectionString: url, application_name: 'tasklane look', limitMs: LOOK_MS });
  try {
    await client.connect();
    const { rows } = await client.query('select * from tasklane.blocked_sessions()');
    const [first] = rows as Blocked[];
    if (!first) return undefined;
    const others = rows.length === 1 ? '1 session waits' : `${rows.length} sessions wait`;
    const seconds = `${others}, the first for ${Math.round(first.seconds)} s`;
    if (first.standby) return `the synchronous standby is away: ${seconds}`;
    const { relation, holder_pid: pid, holder, holder_state: state, holder_since: since } = first;
    const who = pid === null ? '' : ` held by pid ${pid} (${[holder, state].filter(Boolean).join(', ')})`;
    return `lock on ${relation ?? 'a row'}${who}${since ? ` since ${since.toISOString()}` : ''}: ${seconds}`;
  } finally {
    void client.end().catch(() => undefined);
  }
}

const LATE = 'no answer in time';
/** The probe waited for a lock. */
const LOCKED = '55P03';
const isLate = (error: unknown) => error instanceof Error && error.message === LATE;

const WORDS: Record<string, string> = {
  ECONNREFUSED: 'connection refused',
  ENOTFOUND: 'its host is unknown',
  '25006': 'Postgres is read-only',
  '28000': 'Postgres refuses the login',
  '28P01': 'Postgres refuses the password',
  '3D000': 'the database does not exist',
  '53100': 'the disk of Postgres is full',
  '53300': 'Postgres has no connection left',
  '57P03': 'Postgres is starting or stopping',
};

function codeOf(error: unknown): string | undefined {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    const { code } = cause as { code?: unknown };
    if (typeof code === 'string') return code;
  }
  return undefined;
}

function reasonOf(error: unknown): string {
  if (isLate(error)) return 'Postgres gives no answer';
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return WORDS[codeOf(error) ?? ''] ?? (cause instanceof Error ? cause.message : String(cause));
}
