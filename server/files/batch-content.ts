import { isUtf8 } from 'node:buffer';
import type { TasklaneError } from '../protocol/errors.ts';
import { MalformedJson, parseJson } from '../protocol/json.ts';
import { refuse } from '../protocol/openai.ts';

const NEWLINE = 0x0a;
const BOM = Buffer.from([0xef, 0xbb, 0xbf]);

/** Throws 400 for a name that no file of purpose batch may have. A name without an extension is fine: Python calls bytes `upload`. */
export function checkBatchName(filename: string): void {
  const dot = filename.lastIndexOf('.');
  if (dot > 0 && filename.slice(dot).toLowerCase() !== '.jsonl') {
    throw refuse(400, 'Invalid file format for Batch API. Must be .jsonl');
  }
}

/**
 * Judges what is to be a file of purpose batch while its bytes pass by, in pieces of any size: it must be UTF-8, and its first line that is not blank must be
 * JSON. A line longer than `maxLineBytes`, which is as much as is kept here, is not looked into.
 */
export function createBatchCheck(maxLineBytes: number) {
  const utf8 = createUtf8Check();
  const first = createFirstLineCheck(maxLineBytes);
  return {
    push(piece: Buffer): void {
      utf8.push(piece);
      first.push(piece);
    },
    /** What is wrong with all that was pushed. */
    fault(): TasklaneError | undefined {
      return utf8.isValid() ? first.fault() : refuse(400, 'Invalid file for Batch API. Must be utf-8 encoded');
    },
  };
}

function createFirstLineCheck(maxLineBytes: number) {
  let pieces: Buffer[] = [];
  let size = 0;
  let line = 1;
  let found = false;
  let fault: TasklaneError | undefined;

  const end = () => {
    const bytes = Buffer.concat(pieces, size);
    const text = (line === 1 && bytes.subarray(0, 3).equals(BOM) ? bytes.subarray(3) : bytes).toString('utf8');
    pieces = [];
    size = 0;
    if (text.trim() === '') return;
    found = true;
    try {
      parseJson(text);
    } catch (error) {
      if (!(error instanceof MalformedJson)) throw error;
      fault = refuse(
        400,
        `Invalid file for Batch API. Line ${line} is not parseable as valid JSON.`,
        'file',
        'invalid_json_line',
      );
    }
  };

  return {
    push(piece: Buffer): void {
      let at = 0;
      while (!found && at < piece.length) {
        // Blank lines are not looked at one by one: a file of nothing else took half a second a megabyte.
        if (size === 0) {
          while (at < piece.length && isBlank(piece[at] as number)) if (piece[at++] === NEWLINE) line++;
        }
        if (at === piece.length) return;
        const newline = piece.indexOf(NEWLINE, at);
        const rest = piece.subarray(at, newline < 0 ? piece.length : newline);
        pieces.push(rest);
        size += rest.length;
        if (size > maxLineBytes) {
          found = true;
          pieces = [];
        } else if (newline >= 0) {
          end();
          line++;
        }
        at += rest.length + 1;
      }
    },
    fault(): TasklaneError | undefined {
      if (!found) end();
      return found ? fault : refuse(400, 'File is empty.', 'file');
    },
  };
}

const isBlank = (byte: number) => byte === 0x20 || byte === 0x0d || byte === 0x09 || byte === NEWLINE;

function createUtf8Check() {
  let valid = true;
  /** A character of which only the first bytes have come. */
  let begun: Buffer = Buffer.alloc(0);

  return {
    push(piece: Buffer): void {
      if (!valid) return;
      // Only the character that the border goes through is copied.
      const need = begun.length === 0 ? 0 : Math.min(charLength(begun[0] as number) - begun.length, piece.length);
      const whole = Buffer.concat([begun, piece.subarray(0, need)]);
      if (whole.length > 0 && whole.length < charLength(whole[0] as number)) {
        begun = whole;
        return;
      }
      const rest = piece.subarray(need);
      const border = rest.length - openBytes(rest);
      valid = isUtf8(whole) && isUtf8(rest.subarray(0, border));
      begun = Buffer.from(rest.subarray(border));
    },
    isValid: () => valid && begun.length === 0,
  };
}

/** How many bytes at the end begin a character that they don't end. */
function openBytes(bytes: Buffer): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back] as number;
    if (byte < 0x80) return 0;
    if (byte >= 0xc0) return charLength(byte) > back ? back : 0;
  }
  return 0;
}

/** The length of the character that begins with this byte; 1 for one that begins none. */
function charLength(byte: number): number {
  return byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
}
