import { cpus } from 'node:os';

/** What a piece of work came to: `rate` a second, times in ms. */
export type Row = {
  work: string;
  rate?: number;
  mean?: number;
  p50?: number;
  p95?: number;
  p99?: number;
  /** Where the figure is of another kind, or has a condition. */
  note?: string;
};

/** A ratio, or another figure, that is to be at least or at most so much. */
export type Bar = { what: string; value: number; atLeast?: number; atMost?: number; unit?: string };

export type Findings = { rows: Row[]; bars?: Bar[] };

export const passes = ({ value, atLeast, atMost }: Bar): boolean =>
  (atLeast === undefined || value >= atLeast) && (atMost === undefined || value <= atMost);

export const median = (values: readonly number[]): number => quantile(values, 0.5);
export const mean = (values: readonly number[]): number => values.reduce((sum, one) => sum + one, 0) / values.length;

/** The value below which the share `q` of the values lies; NaN of none. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN;
}

/** Mean and quantiles of times. */
export const timesOf = (times: readonly number[]) => ({
  mean: mean(times),
  p50: quantile(times, 0.5),
  p95: quantile(times, 0.95),
  p99: quantile(times, 0.99),
});

/** The median over the rounds of ours beside theirs in the same round. */
export const ratioOf = (ours: readonly number[], theirs: readonly number[]): number =>
  median(ours.map((one, round) => one / (theirs[round] as number)));

export const machine = (): string =>
  `${cpus()[0]?.model.trim()} x ${cpus().length}, Node ${process.version}, embedded Postgres 18, fsync on`;

/** Both tables, for a terminal. */
export function print({ rows, bars = [] }: Findings): string {
  const ms = (value: number | undefined) => (value === undefined ? '' : value.toFixed(value < 10 ? 2 : 1));
  const figures = rows.map(({ work, rate, mean, p50, p95, p99, note = '' }) => [
    work,
    rate === undefined ? '' : Math.round(rate).toLocaleString('en'),
    ms(mean),
    ms(p50),
    ms(p95),
    ms(p99),
    note,
  ]);
  const judged = bars.map((bar) => [
    bar.what,
    `${bar.value.toFixed(2)}${bar.unit ?? ''}`,
    bar.atLeast !== undefined ? `at least ${bar.atLeast}` : bar.atMost !== undefined ? `at most ${bar.atMost}` : '',
    passes(bar) ? 'yes' : 'NO',
  ]);
  const tables = [align([['', 'per second', 'mean ms', 'p50', 'p95', 'p99', ''], ...figures], [0, 6])];
  if (judged.length > 0) tables.push(align([['', 'measured', 'bar', 'reached'], ...judged], [0, 2, 3]));
  return tables.join('\n\n');
}

function align(lines: string[][], left: number[]): string {
  const widths = lines[0]?.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0))) ?? [];
  return lines
    .map((line) =>
      line
        .map((cell, column) =>
          left.includes(column) ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
        )
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
