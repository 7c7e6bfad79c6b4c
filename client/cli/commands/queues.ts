import type { Command } from 'commander';
import type { QueueSettings } from '../../types.ts';
import { given, integer, seconds } from '../arguments.ts';
import { lanesOf, showCauses } from '../causes.ts';
import type { Context } from '../context.ts';
import { usage } from '../failure.ts';
import type { Act } from '../families.ts';
import { LANES, laneRows } from '../lanes.ts';

export function define(command: Command, act: Act): void {
  command
    .command('list', { isDefault: true })
    .alias('ls')
    .description('all queues, lane by lane (the default)')
    .action(act(list));
  command.command('show').description('a queue and its settings').argument('<queue>').action(act(show));
  withSettings(
    command.command('register').description('a queue for an endpoint; once more is no fault').argument('<queue>'),
  )
    .requiredOption('--endpoint <endpoint>', 'how data is read')
    .addHelpText('after', '\nExample:\n  tasklane queues register llama2 --endpoint /v1/chat/completions --lease 120')
    .action(act(register));
  withSettings(command.command('set').description("change a queue's settings").argument('<queue>'))
    .addHelpText('after', '\nExample:\n  tasklane queues set llama2 --max-depth 10000 --max-running none')
    .action(act(set));
  command
    .command('pause')
    .description('accept tasks, and hand out none')
    .argument('<queue>')
    .action(
      act(async ({ client, out }: Context, name: string) => {
        const queue = await client.queues.pause(name);
        await out.either(queue, () => out.print(`${name} is paused`));
      }),
    );
  command
    .command('resume')
    .description('hand out tasks again')
    .argument('<queue>')
    .action(
      act(async ({ client, out }: Context, name: string) => {
        const queue = await client.queues.resume(name);
        await out.either(queue, () => out.print(`${name} is resumed`));
      }),
    );
  command
    .command('remove')
    .alias('rm')
    .description('a queue in which nothing waits or runs')
    .argument('<queue>')
    .action(
      act(async ({ client, out }: Context, name: string) => {
        await client.queues.remove(name);
        await out.either({ queue: name, removed: true }, () => out.print(`${name} is removed`));
      }),
    );
  command
    .command('clear')
    .description('cancel everything that waits in a lane')
    .argument('<queue:level>')
    .action(
      act(async ({ client, out }: Context, lane: string) => {
        const cancelled = await client.queues.clear(lane);
        await out.either({ cancelled }, () => out.print(`${cancelled} cancelled`));
      }),
    );
}

type SettingOptions = {
  lease?: number;
  maxAttempts?: number;
  liveAttempts?: number;
  liveRefusal?: number;
  refusal?: number;
  retryInitial?: number;
  retryFactor?: number;
  retryMax?: number;
  retryJitter?: boolean;
  maxDepth?: Limit;
  maxRunning?: Limit;
  maxCompleted?: Limit;
  aging?: number;
  retention?: number;
};

/** Commander makes an empty text of null. */
type Limit = number | 'none';
const limit = (given: string): Limit => (given === 'none' ? given : integer(1)(given));
const limitOf = (limit: Limit | undefined) => (limit === 'none' ? null : limit);

function withSettings(command: Command): Command {
  return command
    .option('--lease <seconds>', 'how long a worker has a task, unless it says so itself', integer(1, 86_400))
    .option('--max-attempts <n>', 'how often a task may be tried', integer(1, 100))
    .option('--live-attempts <n>', 'the same for a live task whose client waits', integer(1, 100))
    .option('--live-refusal <seconds>', 'how long a live task may be refused', integer(0, 86_400))
    .option('--refusal <seconds>', 'how long any other task may be refused', integer(0, 2_592_000))
    .option('--retry-initial <seconds>', 'pause before the second attempt', seconds)
    .option('--retry-factor <factor>', 'by which it grows from attempt to attempt', seconds)
    .option('--retry-max <seconds>', 'the longest pause', seconds)
    .option('--retry-jitter', 'anything from nothing to that pause')
    .option('--no-retry-jitter', 'exactly that pause')
    .option('--max-depth <n>', 'how many may wait; none: any number', limit)
    .option('--max-running <n>', 'how many may run at once; none: any number', limit)
    .option('--max-completed <n>', 'how many ended ones are kept; none: any number', limit)
    .option('--aging <seconds>', 'a waiting task moves up by a step of priority for each so many; 0: never', integer())
    .option('--retention <seconds>', 'how long ended tasks are kept', integer(1));
}

function settingsOf(options: SettingOptions): QueueSettings {
  const retry = given({
    initial_seconds: options.retryInitial,
    factor: options.retryFactor,
    max_seconds: options.retryMax,
    jitter: options.retryJitter,
  });
  return given({
    lease_seconds: options.lease,
    max_attempts: options.maxAttempts,
    live_attempts: options.liveAttempts,
    live_refusal_seconds: options.liveRefusal,
    refusal_seconds: options.refusal,
    retry: Object.keys(retry).length > 0 ? retry : undefined,
    max_depth: limitOf(options.maxDepth),
    max_running: limitOf(options.maxRunning),
    max_completed_tasks: limitOf(options.maxCompleted),
    aging_seconds: options.aging,
    retention_seconds: options.retention,
  });
}

async function list({ client, out }: Context): Promise<void> {
  const queues = await client.queues.list();
  await out.either(queues, async () => {
    if (queues.length === 0)
      return out.print('No queues. Register one: tasklane queues register NAME --endpoint /v1/chat/completions');
    await out.table(
      LANES.slice(0, 5),
      laneRows(queues).map((row) => row.slice(0, 5)),
    );
    showCauses(out, lanesOf(queues));
  });
}

const COUNTS = LANES.filter(({ head }) => ['LANE', 'WAITING', 'DEFERRED', 'RUNNING'].includes(head));

async function show({ client, out }: Context, name: string): Promise<void> {
  const queue = await client.queues.get(name);
  const { retry } = queue;
  const limited = (value: number | null) => value ?? 'no limit';
  await out.either(queue, async () => {
    out.fields([
      ['Queue', queue.queue],
      ['Endpoint', queue.endpoint],
      ['Paused', queue.paused ? 'yes' : 'no'],
      ['Lease', `${queue.lease_seconds}s`],
      ['Attempts', `${queue.max_attempts}, live ${queue.live_attempts}`],
      ['Refusals', `for ${queue.refusal_seconds}s, live ${queue.live_refusal_seconds}s`],
      [
        'Retry',
        `after ${retry.initial_seconds}s, x ${retry.factor}, at most ${retry.max_seconds}s${retry.jitter ? ', jittered' : ''}`,
      ],
      ['Max depth', limited(queue.max_depth)],
      ['Max running', limited(queue.max_running)],
      ['Max completed', limited(queue.max_completed_tasks)],
      ['Aging', queue.aging_seconds === 0 ? 'off' : `${queue.aging_seconds}s`],
      ['Retention', `${queue.retention_seconds}s`],
    ]);
    const shown = (await client.queues.list()).filter((one) => one.queue === name && one.levels.length > 0);
    if (shown.length === 0) return;
    out.print('');
    await out.table(
      COUNTS,
      lanesOf(shown).map((lane) => [`${name}:${lane.level}`, lane.waiting, lane.deferred, lane.running]),
    );
    showCauses(out, lanesOf(shown));
  });
}

async function register(
  { client, out }: Context,
  name: string,
  options: SettingOptions & { endpoint: string },
): Promise<void> {
  await client.queues.register(name, options.endpoint, settingsOf(options));
  await out.either(await client.queues.get(name), () => out.print(`${name} is registered for ${options.endpoint}`));
}

async function set({ client, out }: Context, name: string, options: SettingOptions): Promise<void> {
  const settings = settingsOf(options);
  if (Object.keys(settings).length === 0) throw usage('name a setting to change', 'see: tasklane queues set --help');
  const queue = await client.queues.update(name, settings);
  await out.either(queue, () => out.print(`${name} is changed`));
}
