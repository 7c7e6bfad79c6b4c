/** OpenAI's packages heed no longer wait, and come back after half a second instead; the AI SDK heeds none of a minute. */
const MOST_SECONDS = 59;

/** The headers of a reply, with a `Retry-After` that clients heed: whole seconds from 1 to 59, also where it was a date, or is a model server's. */
export function heededRetryAfter(headers: Record<string, string> | undefined): Record<string, string> | undefined {
  const name = headers && Object.keys(headers).find((one) => one.toLowerCase() === 'retry-after');
  if (name === undefined) return headers;
  const { [name]: asked = '', ...others } = headers as Record<string, string>;
  const seconds = /^[0-9.]+$/.test(asked) ? Number(asked) : (Date.parse(asked) - Date.now()) / 1000;
  const wait = Math.min(Math.max(Math.ceil(seconds), 1), MOST_SECONDS) || 1;
  return { ...others, 'Retry-After': String(wait) };
}
