import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ChatRequest } from './chat.ts';
import { answerTo, QUESTIONS, splitSections } from './reader.ts';

export type Ask = {
  /** For people: what is asked of which section. */
  title: string;
  question: string;
  data: ChatRequest;
  /** What the demo worker must answer. */
  expected: string;
};

/** The quickstart's real input: every question about every section of this project's own documents. */
export function readInput(root: string): { asks: Ask[]; sections: number; documents: number } {
  const files = globSync(['*.md', 'docs/**/*.md'], { cwd: root }).sort();
  const sections = files.flatMap((file) =>
    splitSections(readFileSync(join(root, file), 'utf8')).map((section) => ({ file, ...section })),
  );
  const asks = QUESTIONS.flatMap((question) =>
    sections.map(({ file, title, text }) => {
      const data: ChatRequest = {
        model: 'documents',
        messages: [
          { role: 'system', content: `You answer in one short line. The text is a section of ${file}` },
          { role: 'user', content: `${question}\n\n${text}` },
        ],
      };
      return { title: `${file}, "${title}": ${question}`, question, data, expected: answerTo(data.messages) };
    }),
  );
  return { asks, sections: sections.length, documents: files.length };
}
