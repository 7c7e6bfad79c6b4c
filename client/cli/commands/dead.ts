import type { Command } from 'commander';
import type { Task } from '../../types.ts';
import { each, given, integer } from '../arguments.ts';
import type { Context } from '../context.ts';
import { usage } from '../failure.ts';
import type { Act } from '../families.ts';
import { showTasks } from './list.ts';

type Which = { queue?: string; limit?: number };

export function define(command: Command, act: Act): void {
  command
    .command('list', { isDefault: true })
    .alias('ls')
    .description('tasks whose attempts are exhausted (the default)')
    .option('--queue <queue>', 'only those of this queue')
    .option('--limit <n>', 'how many', integer(1, 1000), 20)
    .action(act(list));
  command
    .command('replay')
    .description('give them a new life')
    .argument('[id...]', 'these')
    .option('--queue <queue>', "all of this queue's, the oldest first")
    .option('--limit <n>', 'with --queue: at most so many', integer(1))
    .addHelpText(
      'after',
      '\nExamples:\n  tasklane dead replay TASK-1-0-0-261128120000-0001-000001\n  tasklane dead replay --queue documents --limit 100',
    )
    .action(act(replay));
  command
    .command('purge')
    .description('remove them for good')
    .requiredOption('--queue <queue>', 'those of this queue')
    .action(act(purge));
}

async function list({ client, out }: Context, { queue, limit }: Which): Promise<void> {
  const page = await client.dead.list(given({ queue, limit })).page();
  await out.either(page, async () => {
    if (page.data.length === 0) return out.print('No dead tasks');
    await showTasks(out, page.data as Task[]);
  });
}

async function replay({ client, out }: Context, ids: string[], { queue, limit }: Which): Promise<void> {
  if (ids.length > 0 === (queue !== undefined)) throw usage('name tasks, or a --queue');
  if (queue === undefined) return each(out, ids, 'replayed', (id) => client.dead.replay(id));
  const replayed = await client.dead.replayAll({ queue, ...given({ limit }) });
  await out.either({ replayed }, () => out.print(`${replayed} replayed`));
}

async function purge({ client, out }: Context, { queue }: { queue: string }): Promise<void> {
  await client.dead.purge(queue);
  await out.either({ queue, purged: true }, () => out.print(`the dead tasks of ${queue} are gone`));
}
