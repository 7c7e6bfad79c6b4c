import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

/** The migrated database that every test database is a clone of. */
export const TEMPLATE = 'tasklane_template';

const OBJECT_IN_USE = '55006';

/** Makes a migrated, empty database of its own for one test file; `drop()` ends the sessions in it. */
export async function createDatabase(): Promise<{ url: string; drop(): Promise<void> }> {
  const name = `test_${randomBytes(8).toString('hex')}`;
  await clone(name);
  return {
    url: Object.assign(new URL(serverUrl()), { pathname: `/${name}` }).href,
    drop: () => execute(`drop database if exists ${name} with (force)`),
  };
}

/** Postgres refuses to copy a database in which a session is, even for the moment of another clone or of autovacuum. */
async function clone(name: string): Promise<void> {
  for (const until = Date.now() + 30_000; ; ) {
    try {
      // By its files: 0.18 s in place of the 0.26 that writing each page to the log takes.
      return await execute(`create database ${name} template ${TEMPLATE} strategy file_copy`);
    } catch (error) {
      if ((error as { code?: string }).code !== OBJECT_IN_USE || Date.now() > until) throw error;
      await sleep(20);
    }
  }
}

async function execute(sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: serverUrl() });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}

function serverUrl(): string {
  const url = process.env.TEST_DATABASE_URL;
  if (!url)
    throw new Error(
      'TEST_DATABASE_URL is not set: run the tests with npm test, or with --test-global-setup=test/support/global-setup.ts',
    );
  return url;
}
