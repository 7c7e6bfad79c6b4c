import { access, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { dataDir, environment, isLocal } from '../config.ts';
import type { Context } from '../context.ts';
import type { Check } from '../doctor/check.ts';
import { Failure } from '../failure.ts';
import type { Act } from '../families.ts';

export function define(command: Command, act: Act): void {
  command
    .option(
      '--database-url <url>',
      'looks into the database, too; also DATABASE_URL, serve.database_url, or the embedded one',
    )
    .addHelpText('after', '\nExit code 1 when there is a problem; a warning is none.')
    .action(act((context: Context, options: { databaseUrl?: string }) => examine(context, options, command)));
}

async function examine(context: Context, options: { databaseUrl?: string }, command: Command): Promise<void> {
  const { client, config, out } = context;
  const { checkServer } = await import('../doctor/server.ts');
  const checks = await checkServer(client, command.parent?.version() ?? '');
  const url =
    options.databaseUrl ?? environment('DATABASE_URL') ?? config.serve?.database_url ?? (await embedded(context));
  if (url !== undefined) {
    const { checkDatabase } = await import('../doctor/database.ts');
    checks.push(...(await checkDatabase(url)));
  }
  await out.either(checks, () => {
    for (const check of checks) show(out, check);
    if (url === undefined) out.note('\nTo look into the database, too: tasklane doctor --database-url postgres://…');
  });
  const problems = checks.filter(({ state }) => state === 'problem');
  if (problems.length > 0)
    throw new Failure(
      `${problems.length === 1 ? 'one problem' : `${problems.length} problems`}: ${problems.map(({ name }) => name).join(', ')}`,
    );
}

/** The URL that a server with an embedded Postgres keeps in its data directory, where one runs. */
async function embedded({ config }: Context): Promise<string | undefined> {
  if (!isLocal(config.url)) return undefined;
  try {
    await access(join(dataDir(config), 'server.json'));
    return (await readFile(join(dataDir(config), 'database.url'), 'utf8')).trim();
  } catch {
    return undefined;
  }
}

const STYLES = { ok: 'green', warning: 'yellow', problem: 'red' } as const;

function show(out: Context['out'], { name, state, message, advice }: Check): void {
  out.print(`${out.paint(STYLES[state], state.padEnd(7))}  ${name}: ${message}`);
  if (advice !== undefined) out.print(`         ${advice}`);
}
