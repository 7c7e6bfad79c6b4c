import { readFileSync } from 'node:fs';

export type Block = { language: string; text: string; line: number };

/** The fenced blocks of a document. */
export function readBlocks(path: string | URL): Block[] {
  const blocks: Block[] = [];
  let block: Block | undefined;
  for (const [index, line] of readFileSync(path, 'utf8').split('\n').entries()) {
    const fence = /^```(.*)$/.exec(line);
    if (fence && block) {
      blocks.push(block);
      block = undefined;
    } else if (fence) block = { language: fence[1] as string, text: '', line: index + 1 };
    else if (block) block.text += `${line}\n`;
  }
  return blocks;
}

/**
 * Whether something printed what a document shows. `…` in the document stands for anything that changes from run to run: an id, a time,
 * members or lines left out. White space does not count, so that JSON and tables can be shown as they read best.
 */
export function isAsShown(shown: string, printed: string): boolean {
  const pattern = bare(shown)
    .split('…')
    .map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
    .join('.*');
  return new RegExp(`^${pattern}$`, 's').test(bare(printed));
}

/** Without white space, and without the rules of psql's tables, which are as long as their columns are wide. */
function bare(text: string): string {
  return text.replace(/^[-+]+$/gm, '').replace(/\s+/g, '');
}
