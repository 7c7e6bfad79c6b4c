/** What a step tells the reader, and what it found wrong. */
export type Report = {
  say(text: string): void;
  figure(what: string, value: number | string): void;
  /** Prints what must hold, and whether it did. */
  check(what: string, holds: boolean, seen?: string): void;
  readonly wrong: number;
};

export function openReport(title: string): Report {
  let wrong = 0;
  console.log(`\n${title}`);
  return {
    say: (text) => console.log(`  ${text}`),
    figure: (what, value) =>
      console.log(`  ${what}: ${typeof value === 'number' ? value.toLocaleString('en') : value}`),
    check(what, holds, seen) {
      if (!holds) wrong++;
      console.log(`  ${holds ? 'holds' : 'WRONG'}: ${what}${seen ? ` (${seen})` : ''}`);
    },
    get wrong() {
      return wrong;
    },
  };
}
