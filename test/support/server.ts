import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { SERVER } from '../../scripts/server.ts';
import { createDatabase } from './database.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const START_MS = 30_000;
const STOP_MS = 5_000;

export const ADMIN_KEY = 'admin-key-of-the-tests';

// biome-ignore lint/suspicious/noExplicitAny: a test asserts what an answer holds; a type would only repeat it
export type Json = any;

/** `json` is undefined where the text is no JSON. */
export type Answer = { status: number; headers: Headers; text: string; json: Json };

export type RequestOptions = {
  /** The admin key by default; null sends none. */
  key?: string | null;
  headers?: Record<string, string>;
  signal?: AbortSignal;
};

export type Exit = { code: number | null; signal: NodeJS.Signals | null };

export type Server = {
  /** `http://127.0.0.1:PORT`. */
  url: string;
  /** Its advertised `ip:port`. */
  instance: string;
  databaseUrl: string;
  adminKey: string;
  pid: number;
  exited: Promise<Exit>;
  readonly stdout: string;
  readonly stderr: string;
  /** Strings and bytes are sent as they are, other bodies as JSON. */
  request(method: string, path: string, body?: unknown, options?: RequestOptions): Promise<Answer>;
  /** A new key's secret; the tenant is `default` where none is given. */
  key(role: 'client' | 'worker' | 'admin', tenant?: string): Promise<string>;
  /** Resolves when the process has ended. */
  kill(signal?: NodeJS.Signals): Promise<Exit>;
  /** SIGTERM, SIGKILL 5 s later, and drops the database if it is its own. */
  stop(): Promise<Exit>;
};

/**
 * Starts the real server as a process on a free port. Without `url` it gets a database of its own; with the same `url` and
 * the same admin key any number of servers share one. Rejects with what it wrote to stderr when it does not start.
 */
export async function startServer(
  options: { url?: string; env?: Record<string, string>; instance?: string } = {},
): Promise<Server> {
  const own = options.url === undefined ? await createDatabase() : undefined;
  const databaseUrl = options.url ?? (own as { url: string }).url;
  const env = {
    PORT: '0',
    DATABASE_URL: databaseUrl,
    TASKLANE_ADMIN_KEY: ADMIN_KEY,
    TASKLANE_CALLBACK_ALLOW: '127.0.0.0/8,::1/128',
    TASKLANE_LOG_LEVEL: 'warn',
    // Each plans the functions that it calls once, which is a large part of what a short test costs.
    TASKLANE_MAX_CONNECTIONS: '3',
    ...(options.instance === undefined ? {} : { TASKLANE_INSTANCE: options.instance }),
    ...options.env,
  };
  const child = spawnServer(env);
  const output = collect(child);
  const exited = (once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>).then(([code, signal]) => ({
    code,
    signal,
  }));
  let url: string;
  try {
    url = await listening(child, exited, output);
  } catch (error) {
    child.kill('SIGKILL');
    await own?.drop();
    throw error;
  }

  const request = async (method: string, path: string, body?: unknown, more: RequestOptions = {}): Promise<Answer> => {
    const key = more.key === undefined ? env.TASKLANE_ADMIN_KEY : more.key;
    const raw = typeof body === 'string' || body instanceof Uint8Array;
    const response = await fetch(url + path, {
      method,
      headers: {
        ...(key === null ? {} : { Authorization: `Bearer ${key}` }),
        ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
        ...more.headers,
      },
      ...(body === undefined ? {} : { body: raw ? (body as string | Uint8Array<ArrayBuffer>) : JSON.stringify(body) }),
      ...(more.signal && { signal: more.signal }),
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, text, json: parsed(text) };
  };

  const kill = (signal: NodeJS.Signals = 'SIGKILL') => {
    child.kill(signal);
    return exited;
  };

  return {
    url,
    instance: options.instance ?? url.slice('http://'.length),
    databaseUrl,
    adminKey: env.TASKLANE_ADMIN_KEY,
    pid: child.pid as number,
    exited,
    get stdout() {
      return output.stdout;
    },
    get stderr() {
      return output.stderr;
    },
    request,
    async key(role, tenant) {
      const made = await request('POST', '/v1/keys', { role, ...(tenant === undefined ? {} : { tenant }) });
      if (made.status !== 200) throw new Error(`no key: ${made.text}`);
      return made.json.key;
    },
    kill,
    async stop() {
      const late = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
      const exit = await kill('SIGTERM');
      clearTimeout(late);
      await own?.drop();
      return exit;
    },
  };
}

/** A database for one test, with a session in it and servers that may be killed. All of it is gone when the test is over. */
export async function ownDatabase(t: TestContext) {
  const { url, drop } = await createDatabase();
  const psql = new pg.Client({ connectionString: url });
  await psql.connect();
  const servers: Promise<Server>[] = [];
  t.after(async () => {
    await psql.end();
    for (const started of await Promise.allSettled(servers)) {
      if (started.status === 'fulfilled') await started.value.kill();
    }
    await drop();
  });
  return {
    url,
    psql,
    start(options: Parameters<typeof startServer>[0] = {}): Promise<Server> {
      const server = startServer({ url, ...options });
      servers.push(server);
      return server;
    },
  };
}

export type StreamEvent = { id: string | undefined; name: string; data: string };

export type Stream = {
  status: number;
  headers: Headers;
  /** Everything read so far, as it came. */
  readonly raw: string;
  /** The next event, undefined at the end of the stream. Comments are passed over. */
  next(): Promise<StreamEvent | undefined>;
  /** All events up to the end. */
  rest(): Promise<StreamEvent[]>;
  /** Hangs up. */
  close(): void;
};

/** Opens an event stream; resolves with its headers, rejects when the answer is none. */
export async function openStream(
  server: Server,
  method: string,
  path: string,
  body?: unknown,
  options: RequestOptions = {},
): Promise<Stream> {
  const controller = new AbortController();
  const key = options.key === undefined ? server.adminKey : options.key;
  const response = await fetch(server.url + path, {
    method,
    headers: { ...(key === null ? {} : { Authorization: `Bearer ${key}` }), ...options.headers },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    signal: controller.signal,
  });
  if (!response.headers.get('content-type')?.startsWith('text/event-stream')) {
    throw new Error(`no event stream: ${response.status} ${await response.text()}`);
  }
  const reader = (response.body as ReadableStream<Uint8Array>).pipeThrough(new TextDecoderStream()).getReader();
  let raw = '';
  let at = 0;

  const next = async (): Promise<StreamEvent | undefined> => {
    for (;;) {
      const end = raw.indexOf('\n\n', at);
      if (end >= 0) {
        const event = eventOf(raw.slice(at, end));
        at = end + 2;
        if (event) return event;
        continue;
      }
      const chunk = await reader.read();
      if (chunk.done) return undefined;
      raw += chunk.value;
    }
  };

  return {
    status: response.status,
    headers: response.headers,
    get raw() {
      return raw;
    },
    next,
    async rest() {
      const events: StreamEvent[] = [];
      for (let event = await next(); event; event = await next()) events.push(event);
      return events;
    },
    close: () => controller.abort(),
  };
}

function eventOf(block: string): StreamEvent | undefined {
  const fields = new Map(
    block
      .split('\n')
      .filter((line) => !line.startsWith(':'))
      .map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]),
  );
  const name = fields.get('event');
  return name === undefined ? undefined : { id: fields.get('id'), name, data: fields.get('data') ?? '' };
}

/** Polls until `look` gives something; rejects after 15 s. The pause leaves the cores to those who are waited for. */
export async function until<Found>(look: () => Promise<Found | undefined | false>): Promise<Found> {
  for (const late = Date.now() + 15_000; Date.now() < late; await pause(10)) {
    const found = await look();
    if (found !== undefined && found !== false) return found as Found;
  }
  throw new Error('what was waited for did not come');
}

/** Runs the server until it ends by itself, as it does when its settings are wrong. */
export async function runServer(env: Record<string, string>): Promise<Exit & { stdout: string; stderr: string }> {
  const child = spawnServer(env);
  const output = collect(child);
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  return { code, signal, ...output };
}

function spawnServer(env: Record<string, string>): ChildProcess {
  const inherited = Object.entries(process.env).filter(
    ([name]) =>
      name === 'NODE_COMPILE_CACHE' ||
      !(name.startsWith('TASKLANE_') || name.startsWith('NODE_') || name === 'DATABASE_URL'),
  );
  const child = spawn(process.execPath, SERVER, {
    cwd: ROOT,
    env: { ...Object.fromEntries(inherited), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const killLeftover = () => child.kill('SIGKILL');
  process.once('exit', killLeftover);
  child.once('exit', () => process.off('exit', killLeftover));
  return child;
}

function collect(child: ChildProcess): { stdout: string; stderr: string } {
  const output = { stdout: '', stderr: '' };
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    output.stdout += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    output.stderr += text;
  });
  return output;
}

async function listening(child: ChildProcess, exited: Promise<Exit>, output: { stderr: string }): Promise<string> {
  const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream });
  let late: NodeJS.Timeout | undefined;
  try {
    return await Promise.race([
      new Promise<string>((resolve) => {
        lines.on('line', (line) => {
          const found = /^tasklane listening on (http:\/\/\S+)$/.exec(line)?.[1];
          if (found) resolve(found);
        });
      }),
      exited.then(({ code, signal }) => {
        throw new Error(`the server ended with ${code ?? signal}: ${output.stderr}`);
      }),
      new Promise<never>((_, reject) => {
        late = setTimeout(() => reject(new Error(`the server did not start in time: ${output.stderr}`)), START_MS);
      }),
    ]);
  } finally {
    clearTimeout(late);
    // Closing the reader pauses the stream: nothing would be collected any more, and a full pipe would stop the server.
    lines.close();
    child.stdout?.resume();
  }
}

function parsed(text: string): Json {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
