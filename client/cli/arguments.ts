import { readFile } from 'node:fs/promises';
import { text as readAll } from 'node:stream/consumers';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Priority } from '../types.ts';
import { EXIT, Failure, failureOf, usage } from './failure.ts';
import type { Output } from './output.ts';

export const PRIORITIES = ['low', 'normal', 'high', 'critical'];
export const STATUSES = ['waiting', 'deferred', 'running', 'succeeded', 'failed', 'dead', 'expired', 'cancelled'];
export const ROLES = ['client', 'worker', 'admin'];

/** A parser of whole numbers. */
export const integer =
  (least = 0, most = Number.MAX_SAFE_INTEGER) =>
  (given: string): number => {
    const number = Number(given);
    if (given.trim() !== '' && Number.isInteger(number) && number >= least && number <= most) return number;
    throw new InvalidArgumentError(
      most < Number.MAX_SAFE_INTEGER
        ? `Give a whole number, ${least} to ${most}.`
        : `Give a whole number from ${least} on.`,
    );
  };

export function seconds(given: string): number {
  const number = Number(given);
  if (given.trim() !== '' && Number.isFinite(number) && number >= 0) return number;
  throw new InvalidArgumentError('Give seconds.');
}

export function priority(given: string): Priority {
  if (PRIORITIES.includes(given)) return given as Priority;
  const number = Number(given);
  if (given.trim() !== '' && Number.isInteger(number) && number >= 0 && number <= 100) return number;
  throw new InvalidArgumentError(`Give ${PRIORITIES.join(', ')}, or 0 to 100.`);
}

/** Gathers `k=v`, however often it is given. */
export function pairs(given: string, before: Record<string, string> = {}): Record<string, string> {
  const at = given.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('Give name=value.');
  return { ...before, [given.slice(0, at)]: given.slice(at + 1) };
}

/** Gathers what is separated by commas, however often it is given. */
export const commaList = (given: string, before: string[] = []): string[] => [
  ...before,
  ...given
    .split(',')
    .map((part) => part.trim())
    .filter(Boolean),
];

export const many = (given: string, before: string[] = []): string[] => [...before, given];

/** ollama-queue's way of asking for JSON; `--json` is the same. */
export const formatOption = (...formats: string[]): Option =>
  new Option('--output <format>', 'json is the same as --json').choices(['json', ...formats]).hideHelp();

/** Whether ollama-queue's `--output json` was given. */
export const asksForJson = (command: Command): boolean =>
  command.opts().output === 'json' && command.options.some(({ argChoices }) => argChoices?.includes('json'));

/** `-` is stdin, `@file` a file, and `@@` an @ that is meant as such. */
export async function textOf(given: string): Promise<string> {
  if (given === '-') return (await readAll(process.stdin)).replace(/\r?\n$/, '');
  if (given.startsWith('@@')) return given.slice(1);
  if (given.startsWith('@')) return (await fileText(given.slice(1))).replace(/\r?\n$/, '');
  return given;
}

async function fileText(path: string): Promise<string> {
  if (path === '-') return readAll(process.stdin);
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw new Failure(`${path}: there is no such file`, EXIT.usage);
    throw usage(`${path}: ${message}`);
  }
}

export function jsonOf(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw usage(`${what} is not JSON: ${(error as Error).message}`);
  }
}

/** Without those that were not given. */
export const given = <Fields extends object>(fields: Fields) =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [Name in keyof Fields]?: Exclude<Fields[Name], undefined>;
  };

/** Does the same for each, whatever became of the others. Throws Failure at the end when one has failed. */
export async function each(
  out: Output,
  ids: readonly string[],
  done: string,
  act: (id: string) => Promise<unknown>,
): Promise<void> {
  const results: { id: string; ok: boolean; message: string }[] = [];
  const failures: Failure[] = [];
  for (const id of ids) {
    try {
      await act(id);
      results.push({ id, ok: true, message: done });
      if (!out.json) out.print(`${id} ${done}`);
    } catch (error) {
      const failure = failureOf(error);
      failures.push(failure);
      results.push({ id, ok: false, message: failure.message });
      if (!out.json) out.note(`tasklane: ${id}: ${failure.message}`);
    }
  }
  if (out.json) out.data(results);
  const [first] = failures;
  if (first) throw new Failure('', ids.length === 1 ? first.exitCode : EXIT.failed, first.hint);
}
