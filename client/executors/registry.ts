import { closest } from 'fastest-levenshtein';
import type { TaskExecutor } from '../worker/executor.ts';
import { type CommandOptions, commandExecutor } from './command.ts';
import { type HttpOptions, httpExecutor } from './http.ts';
import { type OllamaOptions, ollamaExecutor } from './ollama.ts';
import { type OpenAiOptions, openAiExecutor } from './openai.ts';

/** What the built-in executors take. */
export type ExecutorOptions = {
  openai: OpenAiOptions;
  ollama: OllamaOptions;
  http: HttpOptions;
  command: CommandOptions;
};

type OptionsOf<Name extends string> = Name extends keyof ExecutorOptions
  ? ExecutorOptions[Name]
  : Record<string, unknown>;
// biome-ignore lint/suspicious/noExplicitAny: each factory knows its own options
type Factory = (options: any) => TaskExecutor;

const factories = new Map<string, Factory>([
  ['openai', openAiExecutor],
  ['ollama', ollamaExecutor],
  ['http', httpExecutor],
  ['command', commandExecutor],
]);

/** Makes an executor known by name. Throws TypeError for a name that is taken. */
export function registerExecutor(name: string, factory: Factory): void {
  if (factories.has(name)) throw new TypeError(`there is an executor ${name} already`);
  factories.set(name, factory);
}

/** Throws TypeError for a name that nobody registered, and TypeError or RangeError for options that can't be. */
export function createExecutor<Name extends string>(name: Name, options: OptionsOf<Name>): TaskExecutor {
  const factory = factories.get(name);
  if (factory === undefined)
    throw new TypeError(`there is no executor ${name}; did you mean ${closest(name, executorNames())}?`);
  return factory(options);
}

export const executorNames = (): string[] => [...factories.keys()];
