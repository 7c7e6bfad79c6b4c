import { closest } from 'fastest-levenshtein';
import { z } from 'zod';

const postgresUrl = z.string().regex(/^(postgres|postgresql|socket):/, 'must be a postgres:// URL');
const number = (least: number, most: number, usual: number) =>
  z.coerce.number().pipe(z.int().min(least).max(most)).default(usual);

const MIB = 1024 * 1024;

const environment = z.object({
  /** TCP port; 0 takes a free one. */
  PORT: number(0, 65_535, 8080),
  /** Address to listen on. */
  HOST: z.string().min(1).default('127.0.0.1'),
  /** postgres:// URL of a Postgres from 15 on; without it the embedded one runs. */
  DATABASE_URL: postgresUrl.optional(),
  /** The same database without the pooler that DATABASE_URL leads through, where that keeps no sessions. */
  TASKLANE_DIRECT_URL: postgresUrl.optional(),
  /** Where the embedded Postgres and the admin key live. */
  TASKLANE_DATA_DIR: z.string().min(1).default('.tasklane'),
  /** Secret of the admin; with the embedded database one is made where it is unset. */
  TASKLANE_ADMIN_KEY: z.string().min(16, 'must have 16 characters at least').optional(),
  /** ip:port under which other servers and workers know this one; HOST:PORT by default. */
  TASKLANE_INSTANCE: z
    .string()
    .regex(/^\S{1,200}$/)
    .optional(),
  TASKLANE_LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  /** Largest request body. */
  TASKLANE_MAX_BODY_BYTES: number(1024, 512 * 1024 * 1024, 10 * 1024 * 1024),
  /** Connections to the database, besides two for listening and jobs. */
  TASKLANE_MAX_CONNECTIONS: number(2, 200, 10),
  /** How long a call to Postgres may take that has little to do. */
  TASKLANE_DATABASE_SECONDS: number(1, 600, 10),
  /** Addresses (CIDRs, comma-separated) that callbacks may go to although they are private. */
  TASKLANE_CALLBACK_ALLOW: z
    .string()
    .default('')
    .transform((list) =>
      list
        .split(',')
        .map((part) => part.trim())
        .filter(Boolean),
    ),
  /** How long an idempotency key is remembered. */
  TASKLANE_IDEMPOTENCY_SECONDS: number(1, 31_536_000, 86_400),
  /** How long events of the feed are kept. */
  TASKLANE_EVENT_RETENTION_SECONDS: number(60, 31_536_000, 86_400),
  /** Largest file with purpose `batch`. */
  TASKLANE_BATCH_MAX_BYTES: number(1024, 8192 * MIB, 100 * MIB),
  /** Most lines of a batch's input that are not blank. */
  TASKLANE_BATCH_MAX_LINES: number(1, 100_000_000, 50_000),
  /** Largest file with any other purpose, unless it comes in parts. */
  TASKLANE_FILE_MAX_BYTES: number(1024, 8192 * MIB, 512 * MIB),
  /** How many bytes a tenant may have in files; no limit by default. */
  TASKLANE_FILE_QUOTA_BYTES: z.coerce.number().pipe(z.int().min(0)).optional(),
});

/** Where clients, workers and the command line find a server, and what they tell it and their upstreams: no settings of a server, but they may stand beside it. */
const NOT_THE_SERVERS = ['TASKLANE_URL', 'TASKLANE_API_KEY', 'TASKLANE_UPSTREAM_KEY'];

export type Config = Readonly<z.infer<typeof environment>>;

/**
 * The settings, from environment variables: the only place where they are read. An empty value counts as unset.
 * Throws Error with one line a fault; an unknown TASKLANE_* is a fault, with the nearest known name as a suggestion.
 */
export function loadConfig(env: NodeJS.ProcessEnv = process.env): Config {
  const set = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ''));
  const known = Object.keys(environment.shape);
  const faults = Object.keys(set)
    .filter((name) => name.startsWith('TASKLANE_') && !known.includes(name) && !NOT_THE_SERVERS.includes(name))
    .map((name) => `${name} is not a setting: did you mean ${closest(name, known)}?`);
  const parsed = environment.safeParse(set);
  for (const issue of parsed.error?.issues ?? []) faults.push(`${issue.path.join('.')}: ${issue.message}`);
  if (set.TASKLANE_DIRECT_URL && !set.DATABASE_URL) faults.push('TASKLANE_DIRECT_URL: needs DATABASE_URL beside it');
  if (faults.length > 0 || !parsed.success) throw new Error(faults.join('\n'));
  return Object.freeze(parsed.data);
}
