/** OpenAI's packages heed no longer wait, and come back after half a second instead; the AI SDK heeds none of a minute. */
const MOST_SECONDS = 59;

/** The headers of a reply, with a `Retry-After` that clients heed: whole seconds from 1 to 59, also where it was a date, or is a model server's. */
export function heededRetryAfter(headers: Record<string, string> | undefined): Record<string, string> | undefined {
  const name = headers && Object.keys(headers).find((one) => one.toLowerCase() === 'retry-after');
  if (name === undefined) return headers;
  const { [name]: asked = '', ...others } = headers as Record<string, string>;
  const seconds = asked.trim() === '' ? Number.NaN : Number(asked);
  const wait = Number.isNaN(seconds) ? (Date.parse(asked) - Date.now()) / 1000 : seconds;
  if (Number.isNaN(wait)) return others;
  return { ...others, 'Retry-After': String(Math.min(Math.max(Math.ceil(wait), 1), MOST_SECONDS)) };
}
