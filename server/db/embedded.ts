import { mkdir, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { LimitedClient } from './client.ts';
import { findBinaries } from './embedded-binaries.ts';
import {
  checkCluster,
  createCluster,
  findFreePort,
  isPortFree,
  locateCluster,
  newDatabaseUrl,
  readDatabaseUrl,
  resetPassword,
  writeDatabaseUrl,
} from './embedded-cluster.ts';
import { lockFolder } from './embedded-lock.ts';
import {
  clearOrphan,
  launchPostmaster,
  type Postmaster,
  PostmasterStartError,
  stopPostmaster,
} from './embedded-postmaster.ts';
import { LONG_MS } from './limits.ts';

const STOLEN_PORT = /could not bind|could not create any TCP\/IP sockets/;
/** Backends of a killed postmaster notice its death when their query ends; until then they keep its shared memory. */
const BACKENDS_LEFT = /pre-existing shared memory block|is another postmaster/;
const BACKENDS_PATIENCE_MS = 60_000;

export type EmbeddedPostgres = {
  /** Also in `${dataDir}/database.url`, and the same after a restart as long as its port is free. */
  readonly url: string;
  /** Stops Postgres, waits until it is gone, and gives the data directory free. */
  stop(): Promise<void>;
};

/**
 * Starts (making it on first use) the Postgres cluster in `${dataDir}/postgres` and keeps it running, on the same port, until `stop()`.
 *
 * Throws when another server uses `dataDir` (the message names it by its pid and `owner`, say its address) and, with the last lines of Postgres'
 * log, when Postgres cannot start. `durable: false` is for tests that throw the cluster away: it trades a crash of the machine for speed.
 */
export async function startEmbeddedPostgres(options: {
  dataDir: string;
  owner: string;
  log: Logger;
  durable?: boolean;
}): Promise<EmbeddedPostgres> {
  const { owner, log, durable = true } = options;
  await mkdir(options.dataDir, { recursive: true, mode: 0o711 });
  const dataDir = await realpath(options.dataDir);
  const releases = [await lockFolder(dataDir, owner, options.dataDir)];
  const release = () => {
    for (const one of releases.splice(0)) one();
  };
  try {
    const place = await locateCluster(dataDir);
    // A copied data directory points to the same cluster, so a cluster elsewhere has a lock of its own.
    if (place.home !== dataDir) releases.push(await lockFolder(place.home, owner, options.dataDir));
    const binaries = await findBinaries(place.account);
    if ((await clearOrphan(place.path)) === 'stopped')
      log.warn('stopped the Postgres that a killed server left running');

    const known = await readDatabaseUrl(dataDir);
    const url = known ?? newDatabaseUrl(await findFreePort());
    if (place.exists) {
      await checkCluster(place.path);
      if (!known) await resetPassword(place, binaries, url.password);
    } else {
      log.info({ path: place.path }, 'making the embedded Postgres cluster');
      await createCluster(place, dataDir, binaries, url.password);
    }
    if (!(await isPortFree(Number(url.port)))) url.port = String(await findFreePort());
    await writeDatabaseUrl(dataDir, url);

    const { postgres } = binaries;
    const launch = (onSpawn: (postmaster: Postmaster) => void) =>
      launchPostmaster({
        place,
        postgres,
        port: Number(url.port),
        logFile: join(dataDir, 'postgres.log'),
        durable,
        onSpawn,
      });
    const first = await launchPatiently(launch, async () => {
      url.port = String(await findFreePort());
      await writeDatabaseUrl(dataDir, url);
    });
    const stopSupervised = supervise(first, launch, place.path, log);
    try {
      await ensureDatabase(url);
    } catch (error) {
      await stopSupervised();
      throw error;
    }
    log.info({ port: Number(url.port), path: place.path }, 'embedded Postgres is ready');

    let stopped: Promise<void> | undefined;
    return {
      url: url.href,
      stop: () => {
        stopped ??= stopSupervised().finally(release);
        return stopped;
      },
    };
  } catch (error) {
    release();
    throw error;
  }
}

type Launch = (onSpawn: (postmaster: Postmaster) => void) => Promise<Postmaster>;

/** The first start: moves to another port when ours was taken meanwhile, and waits for a killed postmaster's backends. */
async function launchPatiently(launch: Launch, changePort: () => Promise<void>): Promise<Postmaster> {
  const patienceEnds = Date.now() + BACKENDS_PATIENCE_MS;
  for (let portsLeft = 5; ; ) {
    try {
      return await launch(() => undefined);
    } catch (error) {
      const log = error instanceof PostmasterStartError ? error.log : '';
      if (STOLEN_PORT.test(log) && portsLeft-- > 0) await changePort();
      else if (BACKENDS_LEFT.test(log) && Date.now() < patienceEnds) await sleep(100);
      else throw error;
    }
  }
}

/** Starts Postgres again whenever it ends by itself, on the same port because pools know it, for as long as it takes; returns what stops it. */
function supervise(first: Postmaster, launch: Launch, cluster: string, log: Logger): () => Promise<void> {
  const stopping = new AbortController();
  let current = first;

  const watching = (async () => {
    let delay = 0;
    for (;;) {
      const startedAt = Date.now();
      const how = await current.exited;
      if (stopping.signal.aborted) return;
      log.error(how, 'embedded Postgres ended unexpectedly; starting it again');
      if (Date.now() - startedAt > 30_000) delay = 0;
      for (;;) {
        await sleep(delay, undefined, { signal: stopping.signal }).catch(() => undefined);
        delay = Math.min(Math.max(50, delay * 2), 5_000);
        if (stopping.signal.aborted) return;
        try {
          await clearOrphan(cluster);
          await launch((postmaster) => {
            current = postmaster;
            if (stopping.signal.aborted) postmaster.process.kill('SIGINT');
          });
          log.info('embedded Postgres is ready again');
          break;
        } catch (error) {
          if (stopping.signal.aborted) return;
          log.warn({ error: (error as Error).message, retryInMs: delay }, 'embedded Postgres did not start again yet');
        }
      }
    }
  })();

  return async () => {
    stopping.abort();
    await stopPostmaster(current);
    await watching;
  };
}

async function ensureDatabase(url: URL): Promise<void> {
  const client = new LimitedClient({
    connectionString: Object.assign(new URL(url), { pathname: '/postgres' }).href,
    limitMs: LONG_MS,
  });
  await client.connect();
  try {
    const { rowCount } = await client.query("select from pg_database where datname = 'tasklane'");
    if (rowCount === 0) await client.query('create database tasklane');
  } finally {
    await client.end();
  }
}
