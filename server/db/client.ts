import pg from 'pg';
import { CONNECT_MS, STATEMENT_TIMEOUT } from './limits.ts';
import './pg-promises.ts';
import { sessionSettings } from './session.ts';

type Callback = (error: Error | undefined, result: pg.QueryResult) => void;
type Options = pg.ClientConfig & {
  /** How long a statement may take; 10 s by default. */
  limitMs?: number | undefined;
  /** The same for Postgres, as it writes it. */
  statementTimeout?: string | undefined;
};

const USUAL_MS = 10_000;

/** A connection of its own, beside the pool: with our session's settings, and closed as soon as a statement has no answer in time. */
export class LimitedClient extends pg.Client {
  readonly #limitMs: number;
  readonly #settings: string;

  constructor({ limitMs = USUAL_MS, statementTimeout = STATEMENT_TIMEOUT, ...config }: Options) {
    super({ connectionTimeoutMillis: CONNECT_MS, keepAlive: true, ...config });
    this.#limitMs = limitMs;
    this.#settings = sessionSettings(statementTimeout);
    // Without a listener a connection that breaks would end the process; its statements fail anyway.
    this.on('error', () => undefined);
  }

  override connect(): Promise<this>;
  override connect(callback: (error: Error) => void): void;
  override connect(callback?: (error: Error) => void): Promise<this> | undefined {
    const connected = (async () => {
      await super.connect();
      await this.query(this.#settings).catch((error: Error) => {
        void this.end();
        throw error;
      });
      return this;
    })();
    if (!callback) return connected;
    connected.then(() => (callback as () => void)(), callback);
    return undefined;
  }

  // biome-ignore lint/suspicious/noExplicitAny: pg declares seven forms of it
  override query(config: any, values?: any, callback?: any): any {
    const late = setTimeout(() => this.#drop(), this.#limitMs);
    const over = () => clearTimeout(late);
    const given = [callback, values].find((one) => typeof one === 'function') as Callback | undefined;
    const sent = typeof values === 'function' ? undefined : values;
    if (!given) return (super.query(config, sent) as unknown as Promise<unknown>).finally(over);
    const settle: Callback = (error, result) => {
      over();
      given(error, result);
    };
    // biome-ignore lint/suspicious/noExplicitAny: as above
    return (super.query as any)(config, sent, settle);
  }

  /** Ends whatever waits for an answer with an error. */
  #drop(): void {
    const { connection } = this as unknown as { connection: { stream: { destroy(error: Error): void } } };
    connection.stream.destroy(new Error(`connection ended: no answer within ${this.#limitMs / 1000} s`));
  }
}
