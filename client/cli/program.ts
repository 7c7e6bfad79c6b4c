import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { asksForJson } from './arguments.ts';
import type { GlobalOptions } from './context.ts';
import { EXIT, failureOf } from './failure.ts';
import { type Act, FAMILIES } from './families.ts';
import type { Streams } from './output.ts';

const MORE = `
Exit codes:
  0    done, and every task that was waited for succeeded
  1    the operation failed, or a task that was waited for did
  2    the command line, the configuration or the request is wrong
  4    there is no such thing
  5    no server answers
  124  time is over
  130  interrupted

The server is found by --url, TASKLANE_URL, url in tasklane.yaml, or http://127.0.0.1:8080.
The key is --api-key, TASKLANE_API_KEY, api_key in tasklane.yaml, or that of a server on this machine (.tasklane/admin.key).
tasklane.yaml is looked for here, in ~/.config/tasklane and in /etc/tasklane.`;

/** Runs a command line, and gives its exit code. */
export async function run(args: readonly string[], streams: Streams): Promise<number> {
  const words = args[0] === 'help' ? [...args.slice(1), '--help'] : args;
  try {
    await createProgram(streams).parseAsync(words, { from: 'user' });
    return 0;
  } catch (error) {
    // Commander has said so itself.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT.usage;
    const { message, hint, exitCode } = failureOf(error);
    if (message !== '') streams.stderr.write(`tasklane: ${message}\n`);
    if (hint !== undefined) streams.stderr.write(`  ${hint}\n`);
    return exitCode;
  }
}

/** The program, with names and summaries of its commands; the one that is used is read when it is known. */
function createProgram(streams: Streams): Command {
  const program = new Command('tasklane')
    .description('A queue server for AI work that needs nothing but Postgres.')
    .version(version(), '-V, --version', 'print the version')
    .option('--config <file>', 'read this file in place of the usual tasklane.yaml')
    .option('--url <url>', 'where the server is')
    .option('--api-key <key>', 'who asks')
    .option('--json', 'print JSON')
    .helpOption('-h, --help', 'print this help')
    .helpCommand(false)
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => streams.stdout.write(text),
      writeErr: (text) => streams.stderr.write(text),
      outputError: (text, write) => write(text.replace(/^error: /, 'tasklane: ')),
    })
    .addHelpText('after', MORE)
    .exitOverride();

  const act: Act =
    (run) =>
    async (...args) => {
      const { createContext } = await import('./context.ts');
      const options = program.opts<GlobalOptions>();
      if (asksForJson(args.at(-1) as Command)) options.json = true;
      await run(await createContext(options, streams), ...args);
    };

  for (const { name, aliases = [], summary, group } of FAMILIES) {
    program.command(name).aliases(aliases).description(summary).helpGroup(group).helpCommand(false);
  }
  /** Reads a command's file, which gives it its arguments, options and subcommands. */
  const fill = async (command: Command): Promise<void> => {
    const family = FAMILIES.find(({ name }) => name === command.name());
    (await family?.load())?.define(command, act);
    command.hook('preSubcommand', refuseUnknown);
  };
  program.hook('preSubcommand', (_, command) => fill(command));
  program
    .command('__complete [words...]', { hidden: true })
    .description('what completion scripts ask: what could stand in place of the last word')
    .action(
      act(async (context, words: string[]) => {
        const { complete } = await import('./completion.ts');
        await complete(context, program, fill, words);
      }),
    );
  return program;
}

/** A command with a default one would take a word that it does not know for that one's argument. */
async function refuseUnknown(command: Command): Promise<void> {
  const [word] = command.args;
  const names = command.commands.map((one) => one.name());
  if (
    word === undefined ||
    word.startsWith('-') ||
    command.commands.some((one) => one.name() === word || one.aliases().includes(word))
  )
    return;
  const { closest } = await import('fastest-levenshtein');
  command.error(`tasklane: unknown command '${word}'\n(Did you mean ${closest(word, names)}?)`);
}

/** package.json lies one folder higher than its compiled code does. */
function version(): string {
  const [here, compiled] = ['../../package.json', '../../../package.json'].map(
    (path) => new URL(path, import.meta.url),
  );
  try {
    return JSON.parse(readFileSync(here as URL, 'utf8')).version;
  } catch {
    return JSON.parse(readFileSync(compiled as URL, 'utf8')).version;
  }
}
