import { visit } from 'jsonc-parser';

// Payloads travel as text: JSON.parse and back would change 1.0, long integers, key order and duplicate keys. What
// stands here finds where a value begins and ends in text that JSON.parse has accepted; it does not validate. indexOf
// carries the scan over strings in native code, and everything between them is read by character code.

const MAX_DEPTH = 1000;

const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const BACKSLASH = 0x5c;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
// `[` and `{` differ in this bit alone, and so do `]` and `}`; no other two characters become one of them.
const BRACE_BIT = 0x20;

/** Text that is not JSON, or is nested too deeply; `position` is the zero-based index of the character at fault. */
export class MalformedJson extends Error {
  readonly position: number;

  constructor(message: string, position: number) {
    super(message);
    this.name = 'MalformedJson';
    this.position = position;
  }
}

/** The value of JSON `text`; throws `MalformedJson` where it is malformed or nested deeper than 1,000 levels. */
export function parseJson(text: string): unknown {
  // First, because JSON.parse keeps a frame for every open bracket: 5 million of them cost it 0.4 s.
  const tooDeep = firstTooDeep(text);
  if (tooDeep !== -1) {
    const fault = faultIn(text.slice(0, tooDeep));
    if (fault !== undefined && fault.position < tooDeep) throw fault;
    throw new MalformedJson(`nested deeper than ${MAX_DEPTH} levels`, tooDeep);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw toMalformedJson(text, error);
  }
}

/**
 * The source text of every member of a JSON object, by unescaped key; of duplicate keys the last counts.
 * `text` must be valid JSON; throws TypeError when it is not an object.
 * The texts are slices that keep `text` itself in memory.
 */
export function memberTexts(text: string): Map<string, string> {
  const members = new Map<string, string>();
  let pos = afterOpening(text, OPEN_BRACE, 'object');
  while (text.charCodeAt(pos) === QUOTE) {
    const keyEnd = stringEnd(text, pos);
    let key = text.slice(pos + 1, keyEnd);
    // As a value, because V8 can misread an escaped key: https://github.com/nodejs/node/issues/63785
    if (key.includes('\\')) key = JSON.parse(`"${key}"`);
    const colon = text.charCodeAt(keyEnd + 1) === COLON ? keyEnd + 1 : spaceEnd(text, keyEnd + 1);
    const start = spaceEnd(text, colon + 1);
    const end = valueEnd(text, start);
    members.set(key, text.slice(start, end));
    pos = nextItem(text, end);
  }
  return members;
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

/** Index of the bracket that opens level 1,001, or -1. Right as far as the text is valid, and safe on any text. */
function firstTooDeep(text: string): number {
  const { length } = text;
  if (!hasManyBrackets(text)) return -1;
  let depth = 0;
  for (let pos = 0; pos < length; pos++) {
    const code = text.charCodeAt(pos);
    if (code === QUOTE) {
      pos = stringEnd(text, pos);
    } else if ((code | BRACE_BIT) === OPEN_BRACE) {
      if (++depth > MAX_DEPTH) return pos;
    } else if ((code | BRACE_BIT) === CLOSE_BRACE) {
      depth--;
    }
  }
  return -1;
}

// Most texts have fewer brackets than that. For 100 KB with many escapes indexOf takes 1 µs, the scan 24.
function hasManyBrackets(text: string): boolean {
  if (text.length <= MAX_DEPTH) return false;
  let count = 0;
  for (const bracket of ['{', '[']) {
    for (let pos = text.indexOf(bracket); pos !== -1; pos = text.indexOf(bracket, pos + 1)) {
      if (++count > MAX_DEPTH) return true;
    }
  }
  return false;
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
function stringEnd(text: string, open: number): number {
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

function faultIn(text: string): MalformedJson | undefined {
  try {
    JSON.parse(text);
    return undefined;
  } catch (error) {
    return toMalformedJson(text, error);
  }
}

// V8 names the position of most faults, but neither of an unexpected token nor of an early end.
function toMalformedJson(text: string, error: unknown): MalformedJson {
  const message = error instanceof Error ? error.message : String(error);
  const placed = /^(.*?)(?: in JSON)? at position (\d+)(?: \(line \d+ column \d+\))?$/.exec(message);
  if (placed !== null && !message.startsWith('Unexpected token ')) {
    return malformed(Number(placed[2]), placed[1] ?? message);
  }
  if (message.startsWith('Unexpected end ')) return malformed(text.length, 'Unexpected end of JSON input');
  const position = firstFault(text);
  const character = String.fromCodePoint(text.codePointAt(position) ?? 0xfffd);
  const shown = /[ \p{L}\p{N}\p{P}\p{S}]/u.test(character) ? character : escapeOf(character);
  return malformed(position, `Unexpected token '${shown}'`);
}

function malformed(position: number, reason: string): MalformedJson {
  return new MalformedJson(`malformed JSON at position ${position}: ${reason}`, position);
}

function escapeOf(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
}

function firstFault(text: string): number {
  let position = text.length;
  const stop = new Error('first fault');
  try {
    visit(
      text,
      {
        onError: (_code, offset) => {
          position = offset;
          // visit() would go on and recover.
          throw stop;
        },
      },
      { disallowComments: true },
    );
  } catch (error) {
    if (error !== stop) throw error;
  }
  // jsonc-parser faults a word or a string where it begins; JSON.parse, and a reader, at the first wrong character.
  return text.charCodeAt(position) === QUOTE ? badEscape(text, position) : position + literalPrefix(text, position);
}

function literalPrefix(text: string, start: number): number {
  const literal = ['true', 'false', 'null'].find((word) => word[0] === text[start]);
  if (literal === undefined) return 0;
  let length = 1;
  while (length < literal.length && text[start + length] === literal[length]) length++;
  return length;
}

/** Index of the first character from `start` on that makes no escape with its backslash; V8 itself places bad `\u`. */
function badEscape(text: string, start: number): number {
  let pos = text.indexOf('\\', start);
  while (pos !== -1 && '"\\/bfnrtu'.includes(text.charAt(pos + 1))) pos = text.indexOf('\\', pos + 2);
  return pos === -1 ? start : pos + 1;
}
