import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type Command, Option } from 'commander';
import { integer } from '../arguments.ts';
import { setServerEnvironment } from '../config.ts';
import type { Context } from '../context.ts';
import { Failure } from '../failure.ts';
import type { Act } from '../families.ts';

type Options = {
  port?: number;
  host?: string;
  databaseUrl?: string;
  dataDir?: string;
  adminKey?: string;
  logLevel?: Level;
};
type Level = (typeof LEVELS)[number];

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
const NODE = 24;
const NODE_PACKAGE = '24.21.0';

export function define(command: Command, act: Act): void {
  command
    .option('--port <port>', 'to listen on; 0 takes a free one (default: 8080)', integer(0, 65_535))
    .option('--host <address>', 'to listen on (default: 127.0.0.1)')
    .option('--database-url <url>', 'a Postgres from 15 on; without it the embedded one runs')
    .option('--data-dir <folder>', 'where the embedded Postgres and the admin key live (default: .tasklane)')
    .option('--admin-key <key>', "the admin's secret; with the embedded Postgres one is made")
    .addOption(new Option('--log-level <level>', 'what is logged to stderr').choices(LEVELS))
    .addHelpText(
      'after',
      `
All other settings are variables of the environment, or keys under serve in tasklane.yaml. It prints one line when it listens.

Examples:
  tasklane serve
  tasklane serve --port 9000 --database-url postgres://tasklane@db/tasklane`,
    )
    .action(act(serve));
}

async function serve({ config }: Context, options: Options): Promise<void> {
  const {
    port,
    host,
    databaseUrl: database_url,
    dataDir: data_dir,
    adminKey: admin_key,
    logLevel: log_level,
  } = options;
  const flags = { port, host, database_url, data_dir, admin_key, log_level };
  setServerEnvironment(config, Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined)));
  if (Number(process.versions.node.split('.')[0]) >= NODE) await import('../../../server/main.ts');
  else await serveUnderNewerNode();
}

/** The server needs a newer Node than the rest: that of npm's packages, fetched once. npm itself would not pass signals on, so it only says where it is. */
async function serveUnderNewerNode(): Promise<void> {
  const platform = process.platform === 'win32' ? 'win' : process.platform;
  const name = `node-${platform}-${process.arch}@${NODE_PACKAGE}`;
  process.stderr.write(`the server needs Node ${NODE}, and this is ${process.version}: runs it under ${name}\n`);
  const args = ['exec', '--yes', `--package=${name}`, '--', 'node', '--print', 'process.execPath'];
  const found = await promisify(execFile)('npm', args, { shell: process.platform === 'win32' }).catch(
    (error: Error) => {
      throw new Failure(`npm could not fetch ${name}: ${error.message}`);
    },
  );
  const main = fileURLToPath(import.meta.resolve('../../../server/main.js'));
  // In a group of its own: else Ctrl-C would reach it twice, from the terminal and from here, which ends it at once.
  const child = spawn(found.stdout.trim(), ['--max-semi-space-size=16', main], { stdio: 'inherit', detached: true });
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => child.kill(signal));
  process.on('SIGHUP', () => child.kill('SIGTERM'));
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Failure(`the server ended with ${code ?? 'a signal'}`);
}
