import { type Command, Option } from 'commander';
import { chat, embed, generate } from '../../build.ts';
import type { Put, Schedule, ScheduleInput } from '../../types.ts';
import { each, given, integer, jsonOf, many, pairs, priority, textOf } from '../arguments.ts';
import type { Context } from '../context.ts';
import { usage } from '../failure.ts';
import type { Act } from '../families.ts';
import { messagesOf } from '../messages.ts';
import type { Column } from '../output.ts';
import { atEndpoint, type Kind } from '../routes.ts';
import { ago, exactly } from '../times.ts';

type Options = {
  name?: string;
  cron?: string;
  timezone?: string;
  type: Kind;
  model?: string;
  messages?: string[];
  prompt?: string;
  input?: string[];
  system?: string;
  data?: string;
  queue?: string;
  endpoint?: string;
  level?: number;
  priority?: Put['priority'];
  metadata?: Record<string, string>;
  missed?: 'skip' | 'one' | 'all';
  disabled?: true;
};

export function define(command: Command, act: Act): void {
  command
    .command('list', { isDefault: true })
    .alias('ls')
    .description('all schedules (the default)')
    .option('--limit <n>', 'how many', integer(1, 1000), 100)
    .action(act(list));
  command.command('show').description('a schedule and its task').argument('<id>').action(act(show));
  withTask(command.command('add').description('a task that is put whenever its cron expression is due'))
    .requiredOption('--name <name>', 'what it is for')
    .requiredOption('--cron <expression>', 'minute hour day month weekday, or with seconds before')
    .option('--disabled', 'not yet')
    .addHelpText(
      'after',
      '\nExample:\n  tasklane cron add --name digest --cron "0 7 * * 1-5" --model llama2 --prompt "What is new?"',
    )
    .action(act(add));
  withTask(command.command('update').description('change what is given').argument('<id>'))
    .option('--name <name>')
    .option('--cron <expression>')
    .action(act(update));
  command
    .command('remove')
    .alias('rm')
    .description('end schedules')
    .argument('<id...>')
    .action(
      act(({ client, out }: Context, ids: string[]) => each(out, ids, 'removed', (id) => client.schedules.remove(id))),
    );
  command
    .command('enable')
    .description('put tasks from now on')
    .argument('<id...>')
    .action(
      act(({ client, out }: Context, ids: string[]) => each(out, ids, 'enabled', (id) => client.schedules.enable(id))),
    );
  command
    .command('disable')
    .description('put no tasks')
    .argument('<id...>')
    .action(
      act(({ client, out }: Context, ids: string[]) =>
        each(out, ids, 'disabled', (id) => client.schedules.disable(id)),
      ),
    );
  command
    .command('test')
    .description('when an expression is due')
    .argument('<expression>')
    .option('--timezone <zone>', 'as Europe/Berlin (default: UTC)')
    .option('--count <n>', 'how many times', integer(1, 100), 5)
    .action(act(test));
}

function withTask(command: Command): Command {
  return command
    .option('--timezone <zone>', 'as Europe/Berlin (default: UTC)')
    .addOption(new Option('--type <type>', 'what the task is').choices(['chat', 'generate', 'embed']).default('chat'))
    .option('--model <model>', 'which model answers')
    .option('--prompt <text>', "of generate; of chat the user's message")
    .option('--messages <role:content>', 'of chat; give it again for more', many)
    .option('--input <text>', 'of embed; give it again for more', many)
    .option('--system <text>', "the system's message")
    .option('--data <json>', 'in place of all these: any data, with --queue or --endpoint')
    .option('--queue <queue>', 'the queue; without it the model decides')
    .option('--endpoint <endpoint>', "how data is read; the queue's by default")
    .option('--level <level>', '0 is live, 1 to 99 can wait', integer(0, 99))
    .option('--priority <priority>', 'low, normal, high, critical, or 0 to 100', priority)
    .option('--metadata <name=value>', 'shown with its tasks; give it again for more', pairs)
    .addOption(
      new Option('--missed <how>', 'what becomes of times when no server ran (default: skip)').choices([
        'skip',
        'one',
        'all',
      ]),
    );
}

const DATA_OPTIONS = ['messages', 'prompt', 'input', 'system', 'data'] as const;
const TASK_OPTIONS = [...DATA_OPTIONS, 'model', 'queue', 'endpoint', 'level', 'priority', 'metadata'] as const;

/** The task that options describe, where they do. */
async function taskOf(
  { client, config }: Context,
  options: Options,
): Promise<(act: (task: Put) => Promise<void>) => Promise<void>> {
  const { type, queue, endpoint, level, metadata } = options;
  const common = given({ queue, level, priority: options.priority, metadata });
  if (options.data !== undefined) {
    const data = jsonOf(await textOf(options.data), '--data') as Record<string, unknown>;
    const found = endpoint ?? (queue === undefined ? undefined : (await client.queues.get(queue)).endpoint);
    if (found === undefined) throw usage('--data needs --queue or --endpoint');
    return (act) => act({ ...common, endpoint: found, data });
  }
  const model = options.model ?? config.submit?.model;
  if (model === undefined) throw usage('--model is needed, or submit.model in tasklane.yaml');
  const system = options.system === undefined ? {} : { system: await textOf(options.system) };
  const prompt = options.prompt === undefined ? undefined : await textOf(options.prompt);
  const messages = await messagesOf(options.messages ?? []);
  if (prompt !== undefined) messages.push({ role: 'user', content: prompt });
  const input = await Promise.all((options.input ?? []).map(textOf));
  if (type === 'chat' && messages.length === 0) throw usage('a chat needs --prompt or --messages');
  if (type === 'generate' && prompt === undefined) throw usage('generate needs --prompt');
  if (type === 'embed' && input.length === 0) throw usage('embed needs --input');
  return (act) =>
    atEndpoint(client, type, { endpoint, queue, model }, (where) => {
      const task = { ...common, model, endpoint: where };
      if (type === 'chat') return act(chat({ ...task, messages, ...system }));
      if (type === 'embed') return act(embed({ ...task, input: input.length === 1 ? (input[0] as string) : input }));
      return act(generate({ ...task, prompt: prompt as string, ...system }));
    });
}

const COLUMNS: readonly Column[] = [
  { head: 'ID' },
  { head: 'NAME', cut: true },
  { head: 'CRON' },
  { head: 'ENABLED' },
  { head: 'RUNS', right: true },
  { head: 'NEXT' },
  { head: 'LAST' },
];

async function list({ client, out }: Context, { limit }: { limit: number }): Promise<void> {
  const page = await client.schedules.list({ limit }).page();
  await out.either(page, async () => {
    if (page.data.length === 0) return out.print('No schedules');
    const row = ({ id, name, cron, enabled, run_count, next_run, last_run }: Schedule) => [
      id,
      name,
      cron,
      enabled ? 'yes' : 'no',
      run_count,
      ago(next_run),
      ago(last_run),
    ];
    await out.table(COLUMNS, page.data.map(row));
  });
}

async function show({ client, out }: Context, id: string): Promise<void> {
  await print(out, await client.schedules.get(id));
}

async function print(out: Context['out'], schedule: Schedule): Promise<void> {
  await out.either(schedule, () =>
    out.fields([
      ['Schedule', schedule.id],
      ['Name', schedule.name],
      ['Cron', `${schedule.cron} (${schedule.timezone})`],
      ['Enabled', schedule.enabled ? 'yes' : 'no'],
      ['Missed', schedule.missed],
      ['Next run', exactly(schedule.next_run)],
      ['Last run', exactly(schedule.last_run)],
      ['Runs', schedule.run_count],
      ['Last task', schedule.last_task_id],
      ['Last error', schedule.last_error],
      ['Task', JSON.stringify(schedule.task)],
    ]),
  );
}

async function add(context: Context, options: Options & { name: string; cron: string }): Promise<void> {
  const { client, out } = context;
  const { name, cron, timezone, missed } = options;
  const withTask = await taskOf(context, options);
  await withTask(async (task) => {
    const input: ScheduleInput = { name, cron, task, ...given({ timezone, missed }), enabled: !options.disabled };
    await print(out, await client.schedules.create(input));
  });
}

async function update(context: Context, id: string, options: Options): Promise<void> {
  const { client, out } = context;
  const { name, cron, timezone, missed } = options;
  const changes = given({ name, cron, timezone, missed });
  const isGiven = (option: keyof Options) => options[option] !== undefined;
  if (!TASK_OPTIONS.some(isGiven)) {
    if (Object.keys(changes).length === 0)
      throw usage('name something to change', 'see: tasklane schedules update --help');
    return print(out, await client.schedules.update(id, changes));
  }
  // What is not given stays as it is.
  const { task: before } = await client.schedules.get(id);
  const { queue, endpoint, level, priority, metadata, model } = options;
  const common = { ...before, ...given({ queue, endpoint, level, priority, metadata }) };
  if (!DATA_OPTIONS.some(isGiven)) {
    const task = { ...common, data: { ...before.data, ...given({ model }) } };
    return print(out, await client.schedules.update(id, { ...changes, task }));
  }
  const withTask = await taskOf(context, {
    ...options,
    ...given({ model: model ?? (before.data.model as string), endpoint: common.endpoint }),
  });
  await withTask(async ({ data }) =>
    print(out, await client.schedules.update(id, { ...changes, task: { ...common, data } })),
  );
}

async function test(
  { client, out }: Context,
  cron: string,
  { timezone, count }: { timezone?: string; count: number },
): Promise<void> {
  const times = await client.schedules.preview({ cron, count, ...given({ timezone }) });
  await out.either(times, () => {
    for (const time of times) out.print(`${new Date(time).toISOString()}  ${ago(time)}`);
  });
}
