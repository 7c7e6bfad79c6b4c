import { visit } from 'jsonc-parser';
import { BRACE_BIT, CLOSE_BRACE, OPEN_BRACE, QUOTE, stringEnd } from './json-text.ts';

export { elementTexts, memberTexts, minifyJson } from './json-text.ts';

const MAX_DEPTH = 1000;

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
