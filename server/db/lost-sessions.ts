import { LimitedClient } from './client.ts';

const LOOK_MS = 1000;
const LIMIT_MS = 3000;

/**
 * Sessions whose calls were given up. Postgres ends one as soon as it sees that nobody waits for it, but for those whose commit waits for a synchronous
 * standby: they stay until it is back, whoever else goes. They count, or a server would fill Postgres with them.
 */
export function createLostSessions(url: string) {
  let lost = new Set<number>();
  let looking: Promise<void> | undefined;

  const look = async (): Promise<void> => {
    const asked = [...lost];
    // Where nobody can look, nobody can open a connection either.
    const still = await waitingForStandby(url, asked).catch((): number[] => []);
    lost = new Set([...lost].filter((pid) => !asked.includes(pid) || still.includes(pid)));
    looking = undefined;
    if (lost.size > 0) setTimeout(lookSoon, LOOK_MS).unref();
  };
  const lookSoon = () => {
    looking ??= look();
    return looking;
  };

  return {
    count: () => lost.size,
    /** Resolves when it has been looked for. */
    add(pid: number): Promise<void> {
      lost.add(pid);
      return lookSoon();
    },
  };
}
export type LostSessions = ReturnType<typeof createLostSessions>;

async function waitingForStandby(url: string, pids: readonly number[]): Promise<number[]> {
  const client = new LimitedClient({
    connectionString: url,
    application_name: 'tasklane look',
    limitMs: LIMIT_MS,
    connectionTimeoutMillis: LIMIT_MS,
  });
  try {
    await client.connect();
    const { rows } = await client.query(
      `select pid from pg_stat_activity where pid = any($1) and wait_event = 'SyncRep'`,
      [pids],
    );
    return rows.map((row: { pid: number }) => row.pid);
  } finally {
    await client.end().catch(() => undefined);
  }
}
