import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import pg from 'pg';
import { LimitedClient } from './client.ts';

const SQL = new URL('../../sql/', import.meta.url);
const LOCK = 7_461_726_811; // one migrator at a time in a database; any fixed number will do
const OLDEST_POSTGRES = 15;
/** For a migration of a large database, and for the wait for another migrator. */
const LIMIT_MS = 3_600_000;

type Source = { name: string; text: string; checksum: string };

/**
 * Brings the database at `url` up to this version: migrations not yet applied, each once and in order, then functions,
 * views and grants if any of them changed. Safe to call from many processes at once; a second call changes nothing.
 * Returns the names of what was applied. Throws when an applied migration was edited, when the database is newer than
 * this code, and on Postgres before 15.
 */
export async function migrate(url: string): Promise<string[]> {
  const migrations = await readSources('migrations');
  const replaceable = [
    ...(await readSources('functions')),
    ...(await readSources('views')),
    await readSource('grants.sql'),
  ];
  const client = new LimitedClient({
    connectionString: url,
    application_name: 'tasklane migrate',
    limitMs: LIMIT_MS,
    statementTimeout: `${LIMIT_MS / 1000}s`,
  });
  await client.connect();
  try {
    await checkVersion(client);
    await client.query('select pg_advisory_lock($1)', [LOCK]);
    await client.query(`
      set client_min_messages = warning;
      create schema if not exists tasklane;
      create table if not exists tasklane.migration (
        name text primary key, checksum text not null, applied_at timestamptz not null default now())`);
    const applied = new Map<string, string>(
      (await client.query('select name, checksum from tasklane.migration')).rows.map(
        (row: Record<'name' | 'checksum', string>) => [row.name, row.checksum],
      ),
    );
    const done: string[] = [];
    for (const migration of migrations) {
      const checksum = applied.get(migration.name);
      if (checksum === undefined) {
        await apply(client, [migration]);
        done.push(migration.name);
      } else if (checksum !== migration.checksum) {
        throw new Error(`${migration.name} was changed after it had been applied to this database`);
      }
    }
    const known = new Set(migrations.map((migration) => migration.name));
    const newer = [...applied.keys()].find((name) => name.startsWith('migrations/') && !known.has(name));
    if (newer !== undefined)
      throw new Error(`the database has ${newer}, which this version of Tasklane does not know: upgrade it`);

    const changed = replaceable.filter((source) => applied.get(source.name) !== source.checksum);
    if (changed.length > 0 || done.length > 0) {
      await apply(client, replaceable);
      done.push(...changed.map((source) => source.name));
    }
    return done;
  } finally {
    await client.end();
  }
}

async function checkVersion(client: LimitedClient): Promise<void> {
  const { rows } = await client.query("select current_setting('server_version_num')::int / 10000 as major");
  if (rows[0].major < OLDEST_POSTGRES) {
    throw new Error(`Postgres ${rows[0].major} is too old: Tasklane needs ${OLDEST_POSTGRES} or newer`);
  }
}

async function apply(client: LimitedClient, sources: Source[]): Promise<void> {
  let current = '';
  await client.query('begin');
  try {
    // Functions name views and each other, so bodies are checked when they run; views can't change their columns in place.
    await client.query('set local check_function_bodies = off');
    for (const view of sources.filter((source) => source.name.startsWith('views/')).reverse()) {
      await client.query(`drop view if exists tasklane.${pg.escapeIdentifier(baseName(view.name))}`);
    }
    if (sources.some((source) => source.name.startsWith('functions/'))) await client.query(DROP_FUNCTIONS);
    for (const source of sources) {
      current = source.name;
      await client.query(source.text);
      await client.query(
        `insert into tasklane.migration (name, checksum) values ($1, $2)
         on conflict (name) do update set checksum = excluded.checksum, applied_at = now()`,
        [source.name, source.checksum],
      );
    }
    await client.query(COMMENT_FUNCTIONS);
    await client.query('commit');
  } catch (error) {
    await client.query('rollback');
    throw new Error(`sql/${current}: ${(error as Error).message}`, { cause: error });
  }
}

// create or replace can't change what a function takes or returns, and would leave the old one beside the new.
const DROP_FUNCTIONS = `
  do $do$
  declare
    f record;
  begin
    for f in select p.oid::regprocedure as name from pg_proc p where p.pronamespace = 'tasklane'::regnamespace loop
      execute format('drop function %s', f.name);
    end loop;
  end
  $do$`;

// A function says what it does at the top of its body; \df+ shows the same words.
const COMMENT_FUNCTIONS = `
  do $do$
  declare
    f record;
  begin
    for f in
      select p.oid::regprocedure as name, substring(p.prosrc from '^\\s*((?:--[^\\n]*\\n\\s*)+)') as head
      from pg_proc p where p.pronamespace = 'tasklane'::regnamespace
    loop
      execute format('comment on function %s is %L', f.name, regexp_replace(regexp_replace(f.head, '\\n\\s*-- ?', E'\\n', 'g'), '^-- |\\s+$', '', 'g'));
    end loop;
  end
  $do$`;

async function readSources(folder: string): Promise<Source[]> {
  const files = (await readdir(new URL(`${folder}/`, SQL))).filter((file) => file.endsWith('.sql')).sort();
  return Promise.all(files.map((file) => readSource(`${folder}/${file}`)));
}

async function readSource(name: string): Promise<Source> {
  const text = await readFile(new URL(name, SQL), 'utf8');
  return { name, text, checksum: createHash('sha256').update(text).digest('hex') };
}

function baseName(name: string): string {
  return name.slice(name.lastIndexOf('/') + 1, -'.sql'.length);
}
