import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

/** The user that Postgres runs as; undefined means the user of this process. */
export type Account = { readonly uid: number; readonly gid: number } | undefined;

/**
 * Spawn options for Postgres' programs: a folder that any user can enter, and an environment in which no PG* variable, locale or library path of the
 * person's shell changes what they do.
 */
export function spawnOptions(account: Account) {
  return {
    ...account,
    cwd: '/',
    env: { LC_ALL: 'C', PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' },
  };
}

/** Runs a program as `account` to its end; throws, with its output in the error, when it fails. */
export async function runAs(account: Account, program: string, args: readonly string[], input = ''): Promise<string> {
  const running = promisify(execFile)(program, args, spawnOptions(account));
  // A program that ends without reading its input must not bring the server down by EPIPE.
  running.child.stdin?.on('error', () => undefined).end(input);
  return (await running).stdout;
}

/** Whether running `program` as `account` succeeds. */
export async function succeedsAs(account: Account, program: string, args: readonly string[]): Promise<boolean> {
  return runAs(account, program, args).then(
    () => true,
    () => false,
  );
}

/** Postgres refuses to run as root, so root gets the system user `tasklane` (made when absent), or else `nobody`. */
export async function unprivilegedAccount(): Promise<Account> {
  if (process.getuid?.() !== 0) return undefined;
  return (await findAccount('tasklane')) ?? (await createAccount('tasklane')) ?? (await requireAccount('nobody'));
}

async function createAccount(name: string): Promise<Account> {
  if (
    !(await succeedsAs(undefined, 'useradd', ['--system', '--no-create-home', '--shell', '/usr/sbin/nologin', name]))
  ) {
    await succeedsAs(undefined, 'adduser', ['-S', '-D', '-H', '-s', '/sbin/nologin', name]);
  }
  // Whatever those two said: another starter may have made it meanwhile.
  return findAccount(name);
}

async function findAccount(name: string): Promise<Account> {
  try {
    const [uid, gid] = await Promise.all([runAs(undefined, 'id', ['-u', name]), runAs(undefined, 'id', ['-g', name])]);
    return { uid: Number(uid), gid: Number(gid) };
  } catch {
    return undefined;
  }
}

async function requireAccount(name: string): Promise<Account> {
  const account = await findAccount(name);
  if (!account) {
    throw new Error(
      `Postgres cannot run as root, and there is no user tasklane or ${name} to run it as: make one (useradd --system tasklane), start Tasklane as an ordinary user, or set DATABASE_URL`,
    );
  }
  return account;
}
