/** What one call carries: a server takes a thousand of anything, and a body of some megabytes. */
const AT_ONCE = 1000;
const LENGTH_AT_ONCE = 1 << 20;

/** How many of the texts, from the first on, go in one call: one at least. */
export function cut(texts: readonly { text: string }[]): number {
  let count = 0;
  let length = 0;
  for (const { text } of texts.slice(0, AT_ONCE)) {
    length += text.length;
    if (count > 0 && length > LENGTH_AT_ONCE) break;
    count++;
  }
  return count;
}
