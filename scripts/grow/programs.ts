import { existsSync, globSync } from 'node:fs';
import { join } from 'node:path';

export type Step = 'pgbouncer' | 'standby' | 'replica' | 'shards';

/** Folder of the newest installed Postgres' programs, Debian's or the one on the path; undefined when there is none. */
export function findPostgres(): string | undefined {
  const folders = globSync('/usr/lib/postgresql/*/bin').sort(
    (a, b) => Number(b.split('/').at(-2)) - Number(a.split('/').at(-2)),
  );
  return [...folders, ...searchPath()].find((folder) =>
    ['initdb', 'postgres', 'pg_basebackup', 'pg_ctl'].every((program) => existsSync(join(folder, program))),
  );
}

export function findPgbouncer(): string | undefined {
  return [...searchPath(), '/usr/sbin', '/usr/local/sbin']
    .map((folder) => join(folder, 'pgbouncer'))
    .find((file) => existsSync(file));
}

/** What to install before the steps can run, one line each. */
export function missing(steps: readonly Step[]): string[] {
  const postgres = findPostgres();
  if (!postgres)
    return ['Postgres 15 or newer with initdb and pg_basebackup is not installed: apt-get install postgresql'];
  const lines: string[] = [];
  const major = postgres.split('/').at(-2) ?? '';
  if (steps.some((step) => step === 'pgbouncer' || step === 'standby') && !findPgbouncer())
    lines.push('PgBouncer is not installed: apt-get install pgbouncer');
  if (steps.includes('shards') && !existsSync(`/usr/share/postgresql/${major}/extension/plproxy.control`))
    lines.push(`PL/Proxy is not installed for ${postgres}: apt-get install postgresql-${major}-plproxy`);
  return lines;
}

function searchPath(): string[] {
  return (process.env.PATH ?? '').split(':').filter(Boolean);
}
