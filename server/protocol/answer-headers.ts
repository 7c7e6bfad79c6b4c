/** What goes on of a model server's headers to whoever put the task. Names are in lower case. */
const PASSED = /^(retry-after|x-request-id|x-should-retry|openai-processing-ms|x-ratelimit-[a-z0-9-]{1,64})$/;
/** As Node takes it for a header of a reply. */
const VALUE = /^[\t\x20-\x7e\x80-\xff]+$/;
const MAX_HEADERS = 16;
const MAX_BYTES = 4096;

/** Those of the headers that go on with an answer, as many as fit; undefined where there are none. */
export function answerHeaders(headers: Readonly<Record<string, unknown>>): Record<string, string> | undefined {
  const kept: Record<string, string> = {};
  let count = 0;
  let bytes = 0;
  for (const [name, value] of Object.entries(headers)) {
    const lower = name.toLowerCase();
    if (typeof value !== 'string' || !PASSED.test(lower) || !VALUE.test(value)) continue;
    bytes += lower.length + value.length;
    if (++count > MAX_HEADERS || bytes > MAX_BYTES) break;
    kept[lower] = value;
  }
  return count === 0 ? undefined : kept;
}

/** The progress event by which a worker gives a stream its headers: with the first chunk, as an object. */
export const HEADERS_EVENT = 'response-headers';
