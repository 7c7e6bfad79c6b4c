import { styleText } from 'node:util';
import { noColour } from './config.ts';

export type Style = Parameters<typeof styleText>[0];
export type Column = {
  head: string;
  right?: boolean /** Is cut where the terminal is too narrow for all. */;
  cut?: boolean;
};

/** Where a command prints: `process`, but in tests. */
export type Streams = {
  stdout: Pick<NodeJS.WriteStream, 'write' | 'isTTY' | 'columns'>;
  stderr: Pick<NodeJS.WriteStream, 'write'>;
};

export type Output = ReturnType<typeof createOutput>;

/** The answer goes to stdout, and all else to stderr. */
export function createOutput(json: boolean, { stdout, stderr }: Streams) {
  const coloured = stdout.isTTY && !noColour();
  const write = (text: string): void => void stdout.write(text);
  const print = (text: string): void => write(`${text}\n`);
  const data = (value: unknown) => print(JSON.stringify(value, null, 2));

  const out = {
    json,
    /** A line of the answer. */
    print,
    /** A piece of the answer, as it comes. */
    write,
    /** A word to the person beside the answer. */
    note: (text: string): void => void stderr.write(`${text}\n`),
    data,
    /** One of a stream of values. */
    line: (value: unknown) => print(JSON.stringify(value)),
    paint: (style: Style, text: string): string =>
      coloured ? styleText(style, text, { validateStream: false }) : text,
    /** The value with --json, else what `show` prints. */
    async either(value: unknown, show: () => void | Promise<void>): Promise<void> {
      if (json) data(value);
      else await show();
    },
    async table(columns: readonly Column[], rows: readonly (readonly unknown[])[]): Promise<void> {
      print(await renderTable(columns, rows, stdout.isTTY ? stdout.columns : undefined));
    },
    /** Names and values, one a line. */
    fields(pairs: readonly (readonly [name: string, value: unknown])[]): void {
      const shown = pairs.filter(([, value]) => value !== undefined && value !== null && value !== '');
      const width = Math.max(...shown.map(([name]) => name.length));
      for (const [name, value] of shown) print(`${out.paint('bold', `${name}:`.padEnd(width + 1))} ${value}`);
    },
  };
  return out;
}

const BETWEEN = 2;
const NARROWEST = 6;

/** A table without borders; lines fit into `width`, where it is given, as far as columns can be cut. */
export async function renderTable(
  columns: readonly Column[],
  rows: readonly (readonly unknown[])[],
  width?: number,
): Promise<string> {
  const { default: Table } = await import('cli-table3');
  const cells = rows.map((row) => row.map((cell) => (cell === undefined || cell === null ? '-' : String(cell))));
  const widths = columns.map(({ head }, index) =>
    Math.max(head.length, ...cells.map((row) => displayWidth(row[index] ?? ''))),
  );
  shrink(widths, columns, width);
  const table = new Table({
    head: columns.map(({ head }) => head),
    colWidths: widths.map((one) => one + BETWEEN),
    colAligns: columns.map(({ right }) => (right ? 'right' : 'left')),
    chars: NO_BORDERS,
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': BETWEEN },
  });
  table.push(...cells);
  return table
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}

const NO_BORDERS = Object.fromEntries(
  ['top', 'bottom', 'left', 'right', 'mid'].flatMap((side) =>
    ['', '-mid', '-left', '-right'].map((part) => [`${side}${part}`, '']),
  ),
);
NO_BORDERS.middle = '';

function shrink(widths: number[], columns: readonly Column[], width = Number.POSITIVE_INFINITY): void {
  const total = () => widths.reduce((sum, one) => sum + one + BETWEEN, -BETWEEN);
  while (total() > width) {
    const widest = widths.reduce(
      (best, one, index) => (columns[index]?.cut && one > (best < 0 ? NARROWEST : (widths[best] ?? 0)) ? index : best),
      -1,
    );
    if (widest < 0) return;
    widths[widest] = (widths[widest] ?? 0) - 1;
  }
}

/** Columns that a terminal needs for it: colours need none, and wide characters two. */
function displayWidth(text: string): number {
  let width = 0;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is how colours are written
  for (const character of text.replace(/\u001b\[[0-9;]*m/g, '')) {
    width +=
      /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Emoji_Presentation}/u.test(
        character,
      )
        ? 2
        : 1;
  }
  return width;
}
