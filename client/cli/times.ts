const UNITS: readonly (readonly [unit: string, seconds: number])[] = [
  ['d', 86_400],
  ['h', 3600],
  ['m', 60],
  ['s', 1],
];

/** `45s`, `3m`, `1h 5m`, `2d 4h`. */
export function span(seconds: number): string {
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 10) / 10)}s`;
  const first = UNITS.findIndex(([, length]) => seconds >= length);
  let rest = Math.floor(seconds);
  const parts: string[] = [];
  for (const [unit, length] of UNITS.slice(first, first + (first < 2 ? 2 : 1))) {
    const count = Math.floor(rest / length);
    rest -= count * length;
    if (count > 0) parts.push(`${count}${unit}`);
  }
  return parts.join(' ');
}

/** `3m ago`, `in 5s`; `-` for a time that has not come (0 or null). */
export function ago(ms: number | null | undefined, now = Date.now()): string {
  if (!ms) return '-';
  const seconds = (now - ms) / 1000;
  if (Math.abs(seconds) < 1) return 'now';
  return seconds > 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`;
}

/** With the time itself, for the page of one thing. */
export const exactly = (ms: number | null | undefined): string | undefined =>
  ms ? `${new Date(ms).toISOString()} (${ago(ms)})` : undefined;
