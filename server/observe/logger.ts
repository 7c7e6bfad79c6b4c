import { type Logger, pino } from 'pino';

/** Logs as JSON lines to stderr; stdout is kept for what people and scripts wait for. */
export function createLogger(level: string): Logger {
  return pino({ level, base: null }, pino.destination({ dest: 2, sync: false }));
}
