import { readFileLines } from '../db/batches.ts';
import type { Database } from '../db/open.ts';

/** `ends` is the byte after it. `text` is null where it is longer than it may be. */
export type InputLine = { number: number; ends: number; text: string | null };

const BOM = '\ufeff';

/**
 * The lines of a file from byte `from` on, about a chunk of them at a time, numbered from 1. Blank lines are passed over, but counted. The last one
 * may lack its line break.
 */
export async function* readLines(
  db: Database,
  file: string,
  from: number,
  maxBytes: number,
): AsyncGenerator<InputLine[]> {
  let at = from;
  let number = 0;
  for (;;) {
    const rows = await readFileLines(db, file, at, maxBytes);
    if (rows.length === 0) return;
    const lines: InputLine[] = [];
    for (const row of rows) {
      number++;
      const text = at === 0 && row.line?.startsWith(BOM) ? row.line.slice(1) : row.line;
      at = Number(row.ends);
      if (text?.trim() !== '') lines.push({ number, ends: at, text });
    }
    yield lines;
  }
}
