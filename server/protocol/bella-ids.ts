import { randomUUID } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';

/** The ids of a request and its trace, as its answer names them: those that the caller sent, where they can stand in a header line, or new ones. */
export function bellaIds(sent: IncomingHttpHeaders) {
  return {
    'X-BELLA-REQUEST-ID': printable(sent['x-bella-request-id']) ?? randomUUID(),
    'X-BELLA-TRACE-ID': printable(sent['x-bella-trace-id']) ?? `tasklane-${randomUUID()}`,
  };
}

const printable = (sent: string | string[] | undefined): string | undefined =>
  typeof sent === 'string' && /^[\x21-\x7e]{1,200}$/.test(sent) ? sent : undefined;
