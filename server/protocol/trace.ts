import { randomUUID } from 'node:crypto';

/** The trace id that a caller sent, or a new one where it sent none that can stand in a header line. */
export function traceIdOf(sent: string | string[] | undefined): string {
  return typeof sent === 'string' && /^[\x21-\x7e]{1,200}$/.test(sent) ? sent : `tasklane-${randomUUID()}`;
}
