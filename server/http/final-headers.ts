import type { ServerResponse } from 'node:http';
import type { Answered } from '../tasks/watchers.ts';
import { answersAsOpenAi } from './route.ts';

/** What the model server refused for now is worth another request. */
const REFUSED = new Set([429, 503]);

/** How a client is to go on after an answer that is an error: it has been tried as often as it may be, or was refused. */
export function finalHeaders(res: ServerResponse, { status_code: status }: Answered): Record<string, string> {
  // Unless the model server itself says when.
  if (REFUSED.has(status)) return { 'retry-after': '1' };
  const isRepeated = status >= 500 || status === 408 || status === 409;
  return isRepeated && answersAsOpenAi(res) ? { 'x-should-retry': 'false' } : {};
}
