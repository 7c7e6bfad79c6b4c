import type { Command, Option } from 'commander';
import { PRIORITIES } from './arguments.ts';
import type { Context } from './context.ts';

type Candidate = { value: string; description: string };

const plain = (value: string): Candidate => ({ value, description: '' });
const SOON_MS = 1000;
const EXECUTORS = ['openai', 'ollama', 'http', 'command'];

/** Prints what could stand in place of the last of `words`, which begins it: a candidate a line, and its description after a tab. */
export async function complete(
  context: Context,
  program: Command,
  fill: (command: Command) => Promise<void>,
  words: readonly string[],
): Promise<void> {
  for (const { value, description } of await candidates(context, program, fill, words)) {
    context.out.print(description === '' ? value : `${value}\t${description.split('\n')[0]}`);
  }
}

async function candidates(
  context: Context,
  program: Command,
  fill: (command: Command) => Promise<void>,
  words: readonly string[],
): Promise<Candidate[]> {
  const last = words.at(-1) ?? '';
  let command = program;
  let options: Option[] = [...program.options];
  let operands: string[] = [];
  let pending: Option | undefined;
  for (const word of words.slice(0, -1)) {
    if (word === '--') return [];
    if (pending) {
      pending = undefined;
      continue;
    }
    if (word.startsWith('-')) {
      pending = options.find(
        ({ short, long, required, optional }) => (short === word || long === word) && (required || optional),
      );
      continue;
    }
    const sub = command.commands.find((one) => one.name() === word || one.aliases().includes(word));
    if (sub && operands.length === 0) {
      await fill(sub);
      command = sub;
      options = [...options, ...sub.options];
    } else operands = [...operands, word];
  }
  const found = await possible(command, options, pending, last, context);
  return found.filter(({ value }) => value.startsWith(last));
}

async function possible(
  command: Command,
  options: readonly Option[],
  pending: Option | undefined,
  last: string,
  context: Context,
): Promise<Candidate[]> {
  if (pending) return pending.argChoices?.map(plain) ?? (await named(pending.attributeName(), last, context));
  if (last.startsWith('-')) {
    return [
      ...options
        .filter(({ hidden }) => !hidden)
        .map((option) => ({ value: option.long ?? '', description: option.description })),
      { value: '--help', description: 'print help' },
    ];
  }
  const subcommands = command
    .createHelp()
    .visibleCommands(command)
    .map((one) => ({ value: one.name(), description: one.summary() || one.description() }));
  if (subcommands.length > 0) return subcommands;
  const [argument] = command.registeredArguments;
  if (argument === undefined) return [];
  if (argument.argChoices) return argument.argChoices.map(plain);
  if (command.name() === 'completion') return [];
  const family = command.parent?.name();
  return named(argument.name() === 'id' ? `${family}.id` : argument.name(), last, context);
}

/** Names that the server knows, where it is there and answers at once. */
async function named(what: string, last: string, { client }: Context): Promise<Candidate[]> {
  const options = { signal: AbortSignal.timeout(SOON_MS) };
  const read = NAMES[what];
  try {
    return read ? await read(client, last, options) : [];
  } catch {
    return [];
  }
}

type Read = (client: Context['client'], last: string, options: { signal: AbortSignal }) => Promise<Candidate[]>;

const queues: Read = async (client, _, options) =>
  (await client.queues.list(options)).map(({ queue, endpoint }) => ({ value: queue, description: endpoint }));

const NAMES: Record<string, Read> = {
  priority: async () => PRIORITIES.map(plain),
  executor: async () => EXECUTORS.map(plain),
  queue: queues,
  /** The last of a list that is parted by commas. */
  queues: async (client, last, options) => {
    const before = last.slice(0, last.lastIndexOf(',') + 1);
    const all = await client.queues.list(options);
    return all.flatMap(({ queue, levels }) => {
      const known = levels.length > 0 ? levels.map(({ level }) => level) : [0];
      return known.map((level) => plain(`${before}${queue}:${level}`));
    });
  },
  'queue:level': async (client, _, options) =>
    (await client.queues.list(options)).flatMap(({ queue, levels }) =>
      levels.map(({ level, waiting }) => ({ value: `${queue}:${level}`, description: `${waiting} waiting` })),
    ),
  model: async (client, _, options) => [
    ...(await client.channels.list(options)).map(({ model, queue }) => ({ value: model, description: `to ${queue}` })),
    ...(await queues(client, '', options)),
  ],
  batch: async (client, _, options) => batches(client, options),
  'batches.id': async (client, _, options) => batches(client, options),
  task: async (client, _, options) => tasks(client, options),
  'tasklane.id': async (client, _, options) => tasks(client, options),
  'dead.id': async (client, _, options) =>
    (await client.dead.list({}, options).page()).data.map(({ task_id, queue }) => ({
      value: task_id,
      description: queue,
    })),
  'schedules.id': async (client, _, options) =>
    (await client.schedules.list({}, options).page()).data.map(({ id, name }) => ({ value: id, description: name })),
  'workers.id': async (client, _, options) =>
    (await client.workers.list(options)).map(({ id, name }) => ({ value: id, description: name })),
  'keys.id': async (client, _, options) =>
    (await client.keys.list(options)).map(({ id, role, name }) => ({ value: id, description: `${role} ${name}` })),
  'channels.id': async (client, _, options) =>
    (await client.channels.list(options)).map(({ id, model }) => ({ value: String(id), description: model })),
};

const batches = async (client: Context['client'], options: { signal: AbortSignal }) =>
  (await client.batches.list({ limit: 20 }, options).page()).data.map(({ id, status }) => ({
    value: id,
    description: status,
  }));

const tasks = async (client: Context['client'], options: { signal: AbortSignal }) =>
  (await client.list({ limit: 20 }, options).page()).data.map(({ task_id, status, queue }) => ({
    value: task_id,
    description: `${status} ${queue}`,
  }));
