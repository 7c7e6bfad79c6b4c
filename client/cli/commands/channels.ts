import type { Command } from 'commander';
import { integer } from '../arguments.ts';
import type { Context } from '../context.ts';
import type { Act } from '../families.ts';

export function define(command: Command, act: Act): void {
  command
    .command('list', { isDefault: true })
    .alias('ls')
    .description('all routes of models to queues (the default)')
    .action(act(list));
  command
    .command('add')
    .description('route a model to a queue, in place of the route there was')
    .requiredOption('--model <model>', 'the name that clients use')
    .requiredOption('--queue <queue>', 'where it goes')
    .option('--endpoint <endpoint>', "the queue's by default")
    .addHelpText('after', '\nExample:\n  tasklane channels add --model meta-llama/Llama-3.1-8B --queue llama2')
    .action(act(add));
  command
    .command('remove')
    .alias('rm')
    .description('take a route away')
    .argument('<id>', 'as in the list', integer(1))
    .action(act(remove));
}

async function list({ client, out }: Context): Promise<void> {
  const channels = await client.channels.list();
  await out.either(channels, async () => {
    if (channels.length === 0) return out.print('No channels: a queue that is named like a model serves it');
    await out.table(
      [
        { head: 'ID', right: true },
        { head: 'MODEL', cut: true },
        { head: 'ENDPOINT', cut: true },
        { head: 'QUEUE', cut: true },
      ],
      channels.map(({ id, model, endpoint, queue }) => [id, model, endpoint, queue]),
    );
  });
}

async function add(
  { client, out }: Context,
  { model, queue, endpoint }: { model: string; queue: string; endpoint?: string },
): Promise<void> {
  const channel = await client.channels.create({
    model,
    queue,
    endpoint: endpoint ?? (await client.queues.get(queue)).endpoint,
  });
  await out.either(channel, () => out.print(`${model} at ${channel.endpoint} goes to ${queue}`));
}

async function remove({ client, out }: Context, id: number): Promise<void> {
  await client.channels.remove(id);
  await out.either({ id, removed: true }, () => out.print(`channel ${id} is removed`));
}
