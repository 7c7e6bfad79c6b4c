import { type Client, createClient } from '../client.ts';
import { type Config, type Flags, loadConfig } from './config.ts';
import { EXIT, Failure } from './failure.ts';
import { createOutput, type Output, type Streams } from './output.ts';

export type GlobalOptions = Flags & { json?: boolean };

/** What every command works with. */
export type Context = {
  config: Config;
  out: Output;
  /** Made when it is first used: some commands need no server. It soon gives up one that does not answer. */
  readonly client: Client;
  /** For what takes long: outlasts a server's restart, once there has been a server. */
  patient(): Promise<Client>;
  /** Aborts at Ctrl-C, in place of Node's own ending, once a command has asked for it. */
  readonly signal: AbortSignal;
};

/** Attempts, up to five seconds apart: some two minutes. */
const PATIENCE = 30;

export async function createContext(options: GlobalOptions, streams: Streams): Promise<Context> {
  const config = await loadConfig(options);
  const server = { baseUrl: config.url, apiKey: config.api_key ?? '' };
  let client: Client | undefined;
  let signal: AbortSignal | undefined;
  const context = {
    config,
    out: createOutput(options.json === true, streams),
    get client() {
      client ??= createClient({ ...server, maxRetries: 1 });
      return client;
    },
    async patient() {
      await context.client.request('GET', '/health');
      return createClient({ ...server, maxRetries: PATIENCE });
    },
    get signal() {
      signal ??= interrupted();
      return signal;
    },
  };
  return context;
}

function interrupted(): AbortSignal {
  const controller = new AbortController();
  const abort = () => controller.abort(new Failure('interrupted', EXIT.interrupted));
  process.once('SIGINT', abort);
  process.once('SIGTERM', abort);
  return controller.signal;
}
