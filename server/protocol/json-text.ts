// Payloads travel as text: JSON.parse and back would change 1.0, long integers, key order and duplicate keys. What
// stands here finds where a value begins and ends in text that JSON.parse has accepted; it does not validate. indexOf
// carries the scan over strings in native code, and everything between them is read by character code.

export const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const BACKSLASH = 0x5c;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;
export const OPEN_BRACE = 0x7b;
export const CLOSE_BRACE = 0x7d;
// `[` and `{` differ in this bit alone, and so do `]` and `}`; no other two characters become one of them.
export const BRACE_BIT = 0x20;

/**
 * The source text of every member of a JSON object, by unescaped key; of duplicate keys the last counts.
 * `text` must be valid JSON; throws TypeError when it is not an object.
 * The texts are slices that keep `text` itself in memory.
 */
export function memberTexts(text: string): Map<string, string> {
  const members = new Map<string, string>();
  eachMember(text, (name, _, start, end) => members.set(name, text.slice(start, end)));
  return members;
}

/**
 * The text of a JSON object with some of its members changed: each that bears a name of `changes` gets that text for its value, or goes where there is
 * none, and what it does not have yet comes last. All else stays to the letter. Valid JSON that is no object stays as it is.
 */
export function withMembers(text: string, changes: Readonly<Record<string, string | undefined>>): string {
  if (!isObjectText(text)) return text;
  const added = new Set(Object.keys(changes).filter((name) => changes[name] !== undefined));
  const first = afterOpening(text, OPEN_BRACE, 'object');
  let changed = text.slice(0, first);
  /** Up to where the text is in `changed`, or is to be left out. */
  let done = first;
  let isFirst = true;
  eachMember(text, (name, from, start, end) => {
    const value = Object.hasOwn(changes, name) ? changes[name] : text.slice(start, end);
    // With what parts it from the member before it.
    if (value !== undefined) changed += text.slice(isFirst ? from : done, start) + value;
    if (value !== undefined) isFirst = false;
    added.delete(name);
    done = end;
  });
  for (const name of added) {
    changed += `${isFirst ? '' : ','}${JSON.stringify(name)}:${changes[name]}`;
    isFirst = false;
  }
  return changed + text.slice(done);
}

/**
 * The source text of every element of a JSON array, in order.
 * `text` must be valid JSON; throws TypeError when it is not an array.
 * The texts are slices that keep `text` itself in memory.
 */
export function elementTexts(text: string): string[] {
  const elements: string[] = [];
  let pos = afterOpening(text, OPEN_BRACKET, 'array');
  while (pos < text.length && text.charCodeAt(pos) !== CLOSE_BRACKET) {
    const end = valueEnd(text, pos);
    elements.push(text.slice(pos, end));
    pos = nextItem(text, end);
  }
  return elements;
}

/** Valid JSON `text` without the whitespace outside its strings; the same string when there is none. */
export function minifyJson(text: string): string {
  const { length } = text;
  let minified = '';
  let kept = 0;
  for (let pos = 0; pos < length; pos++) {
    const code = text.charCodeAt(pos);
    if (code === QUOTE) {
      pos = stringEnd(text, pos);
    } else if (code <= 0x20) {
      minified += text.slice(kept, pos);
      kept = spaceEnd(text, pos);
      pos = kept - 1;
    }
  }
  return kept === 0 ? text : minified + text.slice(kept);
}

/** Whether valid JSON is an object. */
export const isObjectText = (text: string): boolean => text.charCodeAt(spaceEnd(text, 0)) === OPEN_BRACE;

/** Tells of each member its unescaped key, where it begins, and where its value begins and ends. */
function eachMember(text: string, tell: (name: string, from: number, start: number, end: number) => void): void {
  let pos = afterOpening(text, OPEN_BRACE, 'object');
  while (text.charCodeAt(pos) === QUOTE) {
    const keyEnd = stringEnd(text, pos);
    let key = text.slice(pos + 1, keyEnd);
    // As a value, because V8 can misread an escaped key: https://github.com/nodejs/node/issues/63785
    if (key.includes('\\')) key = JSON.parse(`"${key}"`);
    const colon = text.charCodeAt(keyEnd + 1) === COLON ? keyEnd + 1 : spaceEnd(text, keyEnd + 1);
    const start = spaceEnd(text, colon + 1);
    const end = valueEnd(text, start);
    tell(key, pos, start, end);
    pos = nextItem(text, end);
  }
}

function afterOpening(text: string, opening: number, kind: string): number {
  const pos = spaceEnd(text, 0);
  if (text.charCodeAt(pos) !== opening) throw new TypeError(`not the text of a JSON ${kind}`);
  return spaceEnd(text, pos + 1);
}

function nextItem(text: string, end: number): number {
  const pos = spaceEnd(text, end);
  return text.charCodeAt(pos) === COMMA ? spaceEnd(text, pos + 1) : pos;
}

function spaceEnd(text: string, from: number): number {
  let pos = from;
  while (text.charCodeAt(pos) <= 0x20) pos++;
  return pos;
}

/** Index of the quote that closes the string opened at `open`, or the text's length. */
export function stringEnd(text: string, open: number): number {
  let close = text.indexOf('"', open + 1);
  while (close !== -1 && text.charCodeAt(close - 1) === BACKSLASH && isEscaped(text, close)) {
    close = text.indexOf('"', close + 1);
  }
  return close === -1 ? text.length : close;
}

// Backslashes are counted back to the quote before at most, so a string of nothing else stays linear.
function isEscaped(text: string, quote: number): boolean {
  let pos = quote - 1;
  while (text.charCodeAt(pos) === BACKSLASH) pos--;
  return (quote - pos) % 2 === 0;
}

function valueEnd(text: string, start: number): number {
  const { length } = text;
  const first = text.charCodeAt(start);
  if (first === QUOTE) return stringEnd(text, start) + 1;
  let pos = start + 1;
  if ((first | BRACE_BIT) !== OPEN_BRACE) {
    while (pos < length && !endsScalar(text.charCodeAt(pos))) pos++;
    return pos;
  }
  let depth = 1;
  for (; pos < length; pos++) {
    const code = text.charCodeAt(pos);
    if (code === QUOTE) {
      pos = stringEnd(text, pos);
    } else if ((code | BRACE_BIT) === OPEN_BRACE) {
      depth++;
    } else if ((code | BRACE_BIT) === CLOSE_BRACE && --depth === 0) {
      return pos + 1;
    }
  }
  return length;
}

function endsScalar(code: number): boolean {
  return code <= 0x20 || code === COMMA || (code | BRACE_BIT) === CLOSE_BRACE;
}
