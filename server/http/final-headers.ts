import type { ServerResponse } from 'node:http';
import type { Answered } from '../tasks/watchers.ts';
import { answersAsOpenAi } from './route.ts';

/** What the model server refused for now is worth another request. */
const REFUSED = new Set([429, 503]);

/** How a client is to go on after an answer that is an error: it has been tried as often as it may be, or was refused. */
export function finalHeaders(res: ServerResponse, { status_code: status, headers }: Answered): Record<string, string> {
  if (REFUSED.has(status)) return { 'Retry-After': String(secondsIn(headers)) };
  const isRepeated = status >= 500 || status === 408 || status === 409;
  return isRepeated && answersAsOpenAi(res) ? { 'x-should-retry': 'false' } : {};
}

/** OpenAI's package passes over more than a minute, and so does the AI SDK over a minute. */
const LONGEST_RETRY_AFTER = 59;

/** The `Retry-After` of an answer's headers, which are JSON: seconds or a date. */
function secondsIn(headers: string | null | undefined): number {
  const told = headers ? JSON.parse(headers)['retry-after'] : undefined;
  const seconds = /^[0-9.]+$/.test(told) ? Number(told) : (Date.parse(told) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(Math.ceil(seconds), 1), LONGEST_RETRY_AFTER) : 1;
}
