import { type LevelWithSilent, type Logger, pino } from 'pino';
import { isOutage, type TasklaneError } from '../protocol/errors.ts';

const PAUSE_MS = 1000;

/**
 * Logs as JSON lines to stderr; stdout is kept for what people and scripts wait for. While the database is away every request and every background job
 * has an error to log: that is one line a second, with how many there were.
 */
export function createLogger(level: LevelWithSilent): Logger {
  let pausing = false;
  let untold: { error: TasklaneError; what: unknown }[] = [];
  const tell = () => {
    const last = untold.at(-1);
    pausing = last !== undefined;
    if (!last) return;
    const { error, what } = last;
    log.error(
      { error: String((error.cause as Error)?.message ?? error.cause), times: untold.length, last: what },
      error.message,
    );
    untold = [];
    setTimeout(tell, PAUSE_MS).unref();
  };
  const log: Logger = pino(
    {
      level,
      base: null,
      hooks: {
        logMethod(args, method) {
          const { err } = (args[0] ?? {}) as { err?: unknown };
          if (!isOutage(err)) return method.apply(this, args);
          untold.push({ error: err, what: args[1] });
          if (!pausing) tell();
        },
      },
    },
    pino.destination({ dest: 2, sync: false }),
  );
  return log;
}
