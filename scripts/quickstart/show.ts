import { styleText } from 'node:util';

const LABEL = 12;

/** What the quickstart tells the person at the terminal. */
export const show = {
  heading(name: string, about: string): void {
    process.stdout.write(`\n${styleText('bold', name.padEnd(LABEL + 2))}${about}\n`);
  },
  line(label: string, text: string): void {
    process.stdout.write(`  ${label.padEnd(LABEL)}${text}\n`);
  },
  /** A line that changes: written over on a terminal, elsewhere written once for each `step`. */
  changing(label: string) {
    const { isTTY } = process.stdout;
    let last = '';
    return {
      to(text: string, step: string): void {
        if (isTTY) process.stdout.write(`\r\x1b[K  ${label.padEnd(LABEL)}${text}`);
        else if (step !== last) show.line(label, text);
        last = step;
      },
      end(): void {
        if (isTTY && last !== '') process.stdout.write('\n');
      },
    };
  },
  /** Begins a line that `more` goes on with, piece by piece. */
  begin(label: string, text: string): void {
    process.stdout.write(`  ${label.padEnd(LABEL)}${text}`);
  },
  more(text: string): void {
    process.stdout.write(text);
  },
  plain(text: string): void {
    process.stdout.write(`${text}\n`);
  },
};

export function milliseconds(from: number, to = performance.now()): string {
  return to - from < 10_000 ? `${Math.round(to - from)} ms` : `${((to - from) / 1000).toFixed(1)} s`;
}

export function count(many: number, one: string): string {
  return `${many.toLocaleString('en')} ${one}${many === 1 ? '' : 's'}`;
}
