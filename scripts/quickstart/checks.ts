import { contentOf } from './chat.ts';
import type { Ask } from './input.ts';

export type Checks = ReturnType<typeof createChecks>;

/** Counts which answers came back right, and remembers what is wrong with the others. */
export function createChecks(options: { realModel: boolean }) {
  const wrong: string[] = [];
  let right = 0;

  return {
    wrong,
    get right() {
      return right;
    },
    /**
     * Whether `body` is the answer to `ask`: of the demo worker the one right answer, of a real model any well-formed one. `also` holds what
     * else must be so, by the words for it being otherwise.
     */
    check(ask: Ask, body: unknown, also: Record<string, boolean> = {}): boolean {
      const content = contentOf(body);
      const faults = Object.keys(also).filter((fault) => !also[fault]);
      if (content === undefined) faults.unshift(`no chat completion came back, but ${clip(JSON.stringify(body), 200)}`);
      else if (!options.realModel && content !== ask.expected) {
        faults.unshift(`"${clip(content, 100)}" came back instead of "${clip(ask.expected, 100)}"`);
      }
      if (faults.length === 0) right++;
      else wrong.push(`${ask.title} ${faults.join('; ')}`);
      return faults.length === 0;
    },
    /** Nothing came back, or something that concerns no single question is wrong. */
    fail(what: string): void {
      wrong.push(what);
    },
  };
}

export function clip(text = '', length: number): string {
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}
