import type { Logger } from 'pino';
import { LimitedClient } from './client.ts';
import { toTasklaneError } from './errors.ts';

const CHECK_MS = 10_000;
const ANSWER_MS = 5_000;
const MAX_PAUSE_MS = 5_000;

/**
 * Hears what servers tell each other, on a connection of its own that it replaces for as long as it runs. `onReady` is
 * called after every connect: what was said in between is lost, so look. A silent connection is found out by asking it.
 */
export function listen(
  url: string,
  log: Logger,
  handlers: {
    /** By channel. */
    onMessage: Readonly<Record<string, (message: string) => void>>;
    onReady(): void;
  },
): { stop(): Promise<void> } {
  let client: LimitedClient | undefined;
  let timer: NodeJS.Timeout | undefined;
  let failures = 0;
  let stopped = false;

  const connect = async () => {
    const mine = new LimitedClient({ connectionString: url, application_name: 'tasklane listen', limitMs: ANSWER_MS });
    client = mine;
    const lost = (error?: Error) => {
      if (client !== mine || stopped) return;
      client = undefined;
      clearTimeout(timer);
      void mine.end().catch(() => undefined);
      const pause = Math.min(MAX_PAUSE_MS, 50 * 2 ** failures++) * (0.5 + Math.random() / 2);
      const why = error ?? new Error('connection ended');
      log.warn({ err: toTasklaneError(why), pause: Math.round(pause) }, 'lost the listening connection');
      timer = setTimeout(connect, pause);
    };
    mine.on('error', lost);
    mine.on('end', lost);
    mine.on('notification', ({ channel, payload }) => {
      if (payload) handlers.onMessage[channel]?.(payload);
    });
    const check = async () => {
      try {
        await mine.query('select 1');
        if (client === mine && !stopped) timer = setTimeout(check, CHECK_MS);
      } catch (error) {
        lost(error as Error);
      }
    };
    try {
      await mine.connect();
      await mine.query(
        Object.keys(handlers.onMessage)
          .map((channel) => `listen ${channel}`)
          .join('; '),
      );
      failures = 0;
      timer = setTimeout(check, CHECK_MS);
      handlers.onReady();
    } catch (error) {
      lost(error as Error);
    }
  };
  void connect();

  return {
    stop: async () => {
      stopped = true;
      clearTimeout(timer);
      await client?.end().catch(() => undefined);
    },
  };
}
