import type { Message } from './chat.ts';

/** What can be asked of a section of a document, and how reading it gives the answer. */
const READINGS: Readonly<Record<string, (section: Section) => string>> = {
  'How many words does it have?': ({ prose }) => `${countWords(prose)} words`,
  'Which headings does it have?': ({ headings }) => headings.join('; ') || 'none',
  'What is its first sentence?': ({ prose }) => firstSentence(prose),
  'Which is its longest word?': ({ prose }) => longest(words(prose)),
  'How many lines of code does it show?': ({ code }) => `${code.length} lines of code`,
};

export const QUESTIONS = Object.keys(READINGS);

/**
 * The answer to a chat request, found by reading the request and nothing else. It names the document and the section, so that
 * the answer to another request is a wrong answer.
 */
export function answerTo(messages: readonly Message[]): string {
  const asked = messages.findLast((message) => message.role === 'user')?.content ?? '';
  const [question = '', ...rest] = asked.split('\n');
  const read = READINGS[question];
  if (!read) return `Your message has ${countWords(asked)} words. I am a demo worker and can only count.`;
  const file = /section of (\S+)$/.exec(messages.find((message) => message.role === 'system')?.content ?? '')?.[1];
  const section = parse(rest.join('\n'));
  return `${file}, ${section.headings[0]}: ${read(section)}`;
}

/** A Markdown document in sections, each with its heading of level 1 to 3 and all up to the next one. */
export function splitSections(markdown: string): { title: string; text: string }[] {
  const sections: { title: string; lines: string[] }[] = [];
  let fenced = false;
  for (const line of markdown.split('\n')) {
    if (line.startsWith('```')) fenced = !fenced;
    const title = fenced ? undefined : /^#{1,3} (.+)$/.exec(line)?.[1];
    if (title !== undefined) sections.push({ title, lines: [] });
    sections.at(-1)?.lines.push(line);
  }
  return sections.map(({ title, lines }) => ({ title, text: lines.join('\n').trim() }));
}

type Section = { headings: string[]; prose: string; code: string[] };

function parse(text: string): Section {
  const headings: string[] = [];
  const prose: string[] = [];
  const code: string[] = [];
  let fenced = false;
  for (const line of text.split('\n')) {
    const heading = /^#{1,6} (.+)$/.exec(line)?.[1];
    if (line.startsWith('```')) fenced = !fenced;
    else if (fenced) code.push(line);
    else if (heading !== undefined) headings.push(heading);
    else prose.push(line);
  }
  return { headings, prose: prose.join('\n').trim(), code };
}

export function countWords(text: string): number {
  return words(text).length;
}

function words(text: string): string[] {
  return text.match(/[\p{L}\p{N}_'’-]+/gu) ?? [];
}

function longest(all: readonly string[]): string {
  return all.reduce((best, word) => (word.length > best.length ? word : best), '') || 'none';
}

function firstSentence(prose: string): string {
  const paragraphs = prose.split(/\n\s*\n/).filter((text) => !text.startsWith('|'));
  const paragraph = paragraphs[0]?.replace(/\s+/g, ' ') ?? '';
  return /^.*?[.:!?](?= |$)/.exec(paragraph)?.[0] ?? (paragraph || 'none');
}
