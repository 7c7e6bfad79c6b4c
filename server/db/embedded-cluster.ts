import { createHash, randomBytes, randomInt } from 'node:crypto';
import { once } from 'node:events';
import {
  chmod,
  chown,
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { type Account, runAs, succeedsAs, unprivilegedAccount } from './embedded-account.ts';
import { type Binaries, SYSTEM_FOLDER } from './embedded-binaries.ts';

const MAJOR_VERSION = '18';

/** Where a data directory's cluster is or will be, and who owns it. */
export type ClusterPlace = {
  readonly path: string;
  /** The folder around `path`: the data directory itself, or one below /var/lib/tasklane when only root can enter the data directory. */
  readonly home: string;
  readonly account: Account;
  readonly exists: boolean;
};

/** Finds the cluster of `dataDir` (a real path), or chooses a place for it that the user it will run as can enter. */
export async function locateCluster(dataDir: string): Promise<ClusterPlace> {
  const entry = join(dataDir, 'postgres');
  if (await lstat(entry).catch(() => undefined)) {
    const path = await realpath(entry).catch(() => {
      throw new Error(`${entry} points to a folder that is gone; remove it to start with an empty database`);
    });
    const { uid, gid } = await stat(path);
    const account = process.getuid?.() === 0 && uid !== 0 ? { uid, gid } : await unprivilegedAccount();
    if (!(await canEnter(account, dirname(path)))) {
      throw new Error(
        `Postgres cannot run as root, and user ${uid}, who owns ${path}, cannot enter ${dirname(path)}: open it (chmod +x) or move it`,
      );
    }
    return { path, home: dirname(path), account, exists: (await readdir(path)).length > 0 };
  }
  const account = await unprivilegedAccount();
  if (await canEnter(account, dataDir)) {
    return { path: join(dataDir, 'postgres'), home: dataDir, account, exists: false };
  }
  const home = join(SYSTEM_FOLDER, createHash('sha256').update(dataDir).digest('hex').slice(0, 16));
  await mkdir(home, { recursive: true });
  await Promise.all([SYSTEM_FOLDER, home].map((folder) => chmod(folder, 0o755)));
  return { path: join(home, 'postgres'), home, account, exists: false };
}

/** Makes the cluster beside its place and renames it there, so that one that is there is whole. */
export async function createCluster(
  place: ClusterPlace,
  dataDir: string,
  binaries: Binaries,
  password: string,
): Promise<void> {
  const { path, home, account } = place;
  const fresh = `${path}.new`;
  const passwordFile = `${path}.password`;
  await rm(fresh, { recursive: true, force: true });
  await rm(passwordFile, { force: true });
  try {
    await mkdir(fresh, { mode: 0o700 });
    await writeFile(passwordFile, `${password}\n`, { mode: 0o600 });
    if (account) await Promise.all([fresh, passwordFile].map((file) => chown(file, account.uid, account.gid)));
    await runAs(account, binaries.initdb, [
      `--pgdata=${fresh}`,
      '--username=tasklane',
      `--pwfile=${passwordFile}`,
      '--auth=scram-sha-256',
      '--encoding=UTF8',
      '--locale=C',
      '--locale-provider=builtin',
      '--builtin-locale=C.UTF-8',
    ]);
  } finally {
    await rm(passwordFile, { force: true });
  }
  // The folder that a removed data directory left behind is kept once, in case the removal was a mistake.
  if (await lstat(path).catch(() => undefined)) {
    await rm(`${path}.previous`, { recursive: true, force: true });
    await rename(path, `${path}.previous`);
  }
  await rename(fresh, path);
  await syncFolder(home);
  if (home !== dataDir) {
    await symlink(path, join(dataDir, 'postgres'));
    await syncFolder(dataDir);
  }
}

/** Throws unless the folder is a cluster of the version that we bring. */
export async function checkCluster(path: string): Promise<void> {
  const version = await readFile(join(path, 'PG_VERSION'), 'utf8').catch(() => undefined);
  if (version === undefined) throw new Error(`${path} is not a Postgres cluster, and it is not empty: move it away`);
  if (version.trim() !== MAJOR_VERSION) {
    throw new Error(
      `${path} was made by Postgres ${version.trim()}, and the embedded one is ${MAJOR_VERSION}: dump it with that version (pg_dump) and restore it here, or set DATABASE_URL`,
    );
  }
}

/** Gives the superuser a new password without knowing the old one; the cluster must not be running. */
export async function resetPassword(place: ClusterPlace, binaries: Binaries, password: string): Promise<void> {
  const sql = `alter role tasklane password '${password}'\n`;
  await runAs(place.account, binaries.postgres, ['--single', '-D', place.path, 'postgres'], sql);
}

/** The URL in `${dataDir}/database.url`, or undefined when there is none that can be used. */
export async function readDatabaseUrl(dataDir: string): Promise<URL | undefined> {
  const text = await readFile(join(dataDir, 'database.url'), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '';
    throw error;
  });
  const url = URL.parse(text.trim());
  return url?.username === 'tasklane' && url.password && url.port ? url : undefined;
}

/** A URL with a fresh password, safe to stand in SQL and in a URL as it is. */
export function newDatabaseUrl(port: number): URL {
  return new URL(`postgres://tasklane:${randomBytes(24).toString('hex')}@127.0.0.1:${port}/tasklane`);
}

/** Replaces `${dataDir}/database.url` at once, readable by its owner only. */
export async function writeDatabaseUrl(dataDir: string, url: URL): Promise<void> {
  const file = join(dataDir, 'database.url');
  await rm(`${file}.new`, { force: true });
  await writeFile(`${file}.new`, `${url}\n`, { mode: 0o600, flush: true });
  await rename(`${file}.new`, file);
}

/** Whether a server could listen on this port of 127.0.0.1 now. */
export async function isPortFree(port: number): Promise<boolean> {
  const server = createServer();
  try {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    return true;
  } catch {
    return false;
  } finally {
    server.close();
  }
}

/** A free port below the range that systems give to outgoing connections, so that none of those has it when Postgres must start again. */
export async function findFreePort(): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = randomInt(15_432, 32_000);
    if (await isPortFree(port)) return port;
  }
  throw new Error('no free TCP port for the embedded Postgres between 15432 and 32000 on 127.0.0.1');
}

async function canEnter(account: Account, folder: string): Promise<boolean> {
  return account === undefined || succeedsAs(account, '/bin/sh', ['-c', 'cd "$1"', 'sh', folder]);
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
