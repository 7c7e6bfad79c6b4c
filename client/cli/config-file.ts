import { closest } from 'fastest-levenshtein';
import type { Node, Pair, Scalar, YAMLMap, YAMLSeq } from 'yaml';
import { usage } from './failure.ts';

/** Reads a value of one kind; `fail` throws with the place in the file. */
type Kind<Value> = (node: Node | null, at: Place) => Value;
type Place = {
  /** Of the value, as in `worker.queues`. */
  path: string;
  fail(node: Node | null, message: string): never;
  /** Whether it is a mapping, a list, or a single value, which `${VAR}` has been filled into. */
  yaml: Pick<typeof import('yaml'), 'isMap' | 'isSeq' | 'isScalar'>;
  environment(name: string): string | undefined;
};

const EXPANDED = /\$\{([A-Za-z_][A-Za-z0-9_]*)\}/g;

/** A single value; a text from the environment may stand for a number or a boolean, as there is nothing else there. */
function scalar<Value>(expected: string, accept: (value: unknown) => Value | undefined): Kind<Value> {
  return (node, at) => {
    const value = at.yaml.isScalar(node) ? (node as Scalar).value : undefined;
    const expanded = typeof value === 'string' ? expand(value, node, at) : value;
    const accepted = accept(expanded) ?? (expanded === value ? undefined : accept(parsed(expanded as string)));
    return accepted ?? at.fail(node, `${at.path} must be ${expected}`);
  };
}

function expand(text: string, node: Node | null, at: Place): string {
  return text.replace(EXPANDED, (_, name: string) => at.environment(name) ?? at.fail(node, `${name} is not set`));
}

function parsed(text: string): unknown {
  if (text === 'true' || text === 'false') return text === 'true';
  return text.trim() === '' ? text : Number(text);
}

const integer = (least: number, most = Number.MAX_SAFE_INTEGER): Kind<number> =>
  scalar(`a whole number${most < Number.MAX_SAFE_INTEGER ? `, ${least} to ${most}` : ` from ${least} on`}`, (value) =>
    Number.isInteger(value) && (value as number) >= least && (value as number) <= most ? (value as number) : undefined,
  );

const text: Kind<string> = scalar('a text', (value) => (typeof value === 'string' && value !== '' ? value : undefined));
const flag: Kind<boolean> = scalar('true or false', (value) => (typeof value === 'boolean' ? value : undefined));
const oneOf = <Name extends string>(...names: Name[]): Kind<Name> =>
  scalar(`one of ${names.join(', ')}`, (value) => names.find((name) => name === value));
const priority: Kind<string | number> = scalar('low, normal, high, critical or 0 to 100', (value) =>
  ['low', 'normal', 'high', 'critical'].includes(value as string) ||
  (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 100)
    ? (value as string | number)
    : undefined,
);
const concurrency: Kind<number | 'auto'> = scalar('auto or a whole number from 1 on', (value) =>
  value === 'auto' || (Number.isInteger(value) && (value as number) >= 1) ? (value as number | 'auto') : undefined,
);

function list<Item>(item: Kind<Item>): Kind<Item[]> {
  return (node, at) => {
    if (!at.yaml.isSeq(node)) return at.fail(node, `${at.path} must be a list`);
    return (node as YAMLSeq<Node>).items.map((one, index) => item(one, { ...at, path: `${at.path}[${index}]` }));
  };
}

type Values<Kinds extends Record<string, Kind<unknown>>> = { -readonly [Key in keyof Kinds]?: ReturnType<Kinds[Key]> };

function section<Kinds extends Record<string, Kind<unknown>>>(kinds: Kinds): Kind<Values<Kinds>> {
  return (node, at) => {
    if (!at.yaml.isMap(node)) return at.fail(node, `${at.path || 'the file'} must be a mapping of keys to values`);
    const values: Record<string, unknown> = {};
    for (const { key, value } of (node as YAMLMap<Scalar, Node | null>).items as Pair<Scalar, Node | null>[]) {
      const name = String(key.value);
      const path = at.path === '' ? name : `${at.path}.${name}`;
      const kind = Object.hasOwn(kinds, name) ? kinds[name] : undefined;
      if (kind === undefined) at.fail(key, `${path} is not a key: did you mean ${closest(name, Object.keys(kinds))}?`);
      else values[name] = kind(value, { ...at, path });
    }
    return values as Values<Kinds>;
  };
}

/** Each is a setting of the server: its variable is PORT, HOST, DATABASE_URL, or TASKLANE_ and the name. */
const serve = {
  port: integer(0, 65_535),
  host: text,
  database_url: text,
  direct_url: text,
  data_dir: text,
  admin_key: text,
  instance: text,
  log_level: oneOf('trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'),
  max_body_bytes: integer(1024),
  max_answer_bytes: integer(1024),
  max_connections: integer(2),
  database_seconds: integer(1),
  callback_allow: text,
  forward_headers: text,
  idempotency_seconds: integer(1),
  event_retention_seconds: integer(60),
  batch_max_bytes: integer(1024),
  batch_max_lines: integer(1),
  file_max_bytes: integer(1024),
  file_quota_bytes: integer(0),
};

const PLAIN: ReadonlySet<string> = new Set(['port', 'host', 'database_url']);
export const SERVER_KEYS = Object.fromEntries(
  Object.keys(serve).map((key) => [key, `${PLAIN.has(key) ? '' : 'TASKLANE_'}${key.toUpperCase()}`]),
) as Record<keyof typeof serve, string>;

const file = section({
  url: text,
  api_key: text,
  submit: section({
    model: text,
    queue: text,
    endpoint: text,
    level: integer(0, 99),
    priority,
    system: text,
    timeout_seconds: integer(1),
    max_attempts: integer(1, 100),
  }),
  worker: section({
    queues: list(text),
    executor: text,
    upstreams: list(section({ url: text, api_key: text, queues: list(text), concurrency })),
    endpoint: text,
    concurrency,
    reserve: integer(0),
    prefetch: integer(0),
    strategy: oneOf('fifo', 'round_robin', 'active_passive', 'sequential'),
    lease_seconds: integer(1),
    drain_seconds: integer(0),
    timeout_seconds: integer(1),
    name: text,
    model: text,
    keep_alive: scalar('a text or a number', (value) =>
      typeof value === 'string' || typeof value === 'number' ? value : undefined,
    ),
    pull: flag,
    allow_command: flag,
    command: list(text),
  }),
  serve: section(serve),
});

export type FileConfig = ReturnType<typeof file>;

/** Throws Failure that names the file, the line, and what is wrong there. */
export async function parseConfig(
  source: string,
  path: string,
  environment: (name: string) => string | undefined,
): Promise<FileConfig> {
  const { LineCounter, parseDocument, ...yaml } = await import('yaml');
  const lines = new LineCounter();
  const document = parseDocument(source, { lineCounter: lines });
  const fail = (offset: number | undefined, message: string): never => {
    throw usage(`${path}:${lines.linePos(offset ?? 0).line}: ${message}`);
  };
  const [fault] = document.errors;
  if (fault) fail(fault.pos[0], fault.message.split('\n')[0]?.replace(/ at line .*/, '') ?? fault.message);
  if (document.contents === null) return {};
  return file(document.contents as Node, {
    path: '',
    yaml,
    environment,
    fail: (node, message) => fail(node?.range?.[0], message),
  });
}
