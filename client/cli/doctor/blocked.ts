import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { Client } from 'pg';
import { span } from '../times.ts';
import { type Check, ok, problem, warning } from './check.ts';

/** A wait that is shorter is everyday life. */
const LONG_SECONDS = 3;
const GIB = 1024 ** 3;
const LITTLE = 0.1;

type Blocked = {
  pid: number;
  application: string;
  standby: boolean;
  relation: string | null;
  seconds: number;
  holder_pid: number | null;
  holder: string | null;
  holder_state: string | null;
};

/** Whoever waits for a lock, or for a synchronous standby: until then nothing else moves either. */
export async function blockedSessions(database: Client): Promise<Check> {
  const { rows } = await database.query<Blocked>('select * from tasklane.blocked_sessions()');
  const long = rows.filter(({ seconds }) => seconds >= LONG_SECONDS);
  const [first] = long;
  if (!first) return ok('blocked sessions', 'none');
  const waits = `${long.length === 1 ? '1 waits' : `${long.length} wait`}, the first for ${span(first.seconds)}`;
  if (first.standby)
    return problem(
      'blocked sessions',
      `the synchronous standby is away: ${waits}`,
      'start it, or take it out of synchronous_standby_names; cancel none of the sessions: what they commit would be on one machine only',
    );
  const { relation, holder_pid: pid, holder, holder_state: state } = first;
  const who = [holder, state].filter(Boolean).join(', ');
  return problem(
    'blocked sessions',
    `lock on ${relation ?? 'a row'}${pid === null ? '' : ` held by pid ${pid}${who && ` (${who})`}`}: ${waits}`,
    pid === null
      ? 'look into pg_locks for a prepared transaction that holds it'
      : `if it was forgotten: select pg_terminate_backend(${pid});`,
  );
}

/** How much room there is where the database lies, if that is this machine. */
export async function disk(database: Client): Promise<Check> {
  const { rows } = await database.query<{ bytes: string }>('select pg_database_size(current_database()) as bytes');
  const size = `the database has ${gib(Number(rows[0]?.bytes))}`;
  const place = ['127.0.0.1', 'localhost', '::1'].includes(database.host) || database.host.startsWith('/');
  const room = place ? await roomOf(database) : undefined;
  if (!room) return ok('disk', `${size}; the room beside it can't be seen from here`);
  const shown = `${size}, and ${gib(room.free)} are free (${Math.round(room.share * 100)} %)`;
  const advice = 'make room beside the database, before Postgres has none to write in: it needs some even to delete';
  if (room.free < GIB) return problem('disk', shown, advice);
  return room.share < LITTLE ? warning('disk', shown, advice) : ok('disk', shown);
}

/** The least of the folder and its log's; undefined where this user may not see it. */
async function roomOf(database: Client): Promise<{ free: number; share: number } | undefined> {
  try {
    const { rows } = await database.query<{ folder: string }>(`select current_setting('data_directory') as folder`);
    const folder = rows[0]?.folder as string;
    const found = await Promise.all([folder, join(folder, 'pg_wal')].map((one) => statfs(one).catch(() => undefined)));
    const rooms = found.flatMap((one) =>
      one ? [{ free: one.bavail * one.bsize, share: one.bavail / Math.max(1, one.blocks) }] : [],
    );
    return rooms.sort((a, b) => a.free - b.free)[0];
  } catch {
    return undefined;
  }
}

const gib = (bytes: number) => `${(bytes / GIB).toFixed(1)} GiB`;
