import { rmSync } from 'node:fs';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runMigrations } from 'graphile-worker';
import pg from 'pg';
import { pino } from 'pino';
import { killPostmaster } from '../../scripts/chaos/postmaster.ts';
import { startEmbeddedPostgres } from '../../server/db/embedded.ts';
import { migrate } from '../../server/db/migrate.ts';
import { TEMPLATE } from './database.ts';

let teardown = async (): Promise<void> => undefined;

/** Gives the whole test run one Postgres, that of TEST_DATABASE_URL or else one of its own, with a migrated template database to clone. */
export async function globalSetup(): Promise<void> {
  // The processes of the test files inherit this variable.
  process.env.TEST_DATABASE_URL ??= await startOwnPostgres();
  const url = new URL(process.env.TEST_DATABASE_URL);
  try {
    const client = new pg.Client({ connectionString: url.href });
    await client.connect();
    await client.query(`drop database if exists ${TEMPLATE} with (force)`);
    await client.query(`create database ${TEMPLATE}`);
    await client.end();
    const connectionString = Object.assign(new URL(url), { pathname: `/${TEMPLATE}` }).href;
    await migrate(connectionString);
    // Else every server would do so at its first start.
    await runMigrations({ connectionString });
  } catch (error) {
    // The runner does not call globalTeardown after a failed globalSetup.
    await teardown();
    throw error;
  }
}

export async function globalTeardown(): Promise<void> {
  await teardown();
}

async function startOwnPostgres(): Promise<string> {
  const dataDir = await mkdtemp(join(tmpdir(), 'tasklane-test-'));
  // As root, Postgres runs as a user who must be able to enter the folder.
  await chmod(dataDir, 0o711);
  const options = { dataDir, owner: 'the test run', log: pino({ level: 'warn' }), durable: false };
  const postgres = await startEmbeddedPostgres(options);
  const killLeftovers = () => stopNow(dataDir);
  process.once('exit', killLeftovers);
  teardown = async () => {
    process.off('exit', killLeftovers);
    await postgres.stop();
    await rm(dataDir, { recursive: true, force: true });
  };
  return postgres.url;
}

/** For a run that is interrupted: the runner then exits without globalTeardown. */
function stopNow(dataDir: string): void {
  killPostmaster(dataDir);
  rmSync(dataDir, { recursive: true, force: true });
}
