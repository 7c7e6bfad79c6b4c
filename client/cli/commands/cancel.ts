import type { Command } from 'commander';
import { each } from '../arguments.ts';
import type { Context } from '../context.ts';
import type { Act } from '../families.ts';

export function define(command: Command, act: Act): void {
  command
    .argument('<id...>', 'tasks')
    .addHelpText('after', '\nThose that can be cancelled are, whatever becomes of the others.')
    .action(act(cancel));
}

async function cancel({ client, out }: Context, ids: string[]): Promise<void> {
  await each(out, ids, 'cancelled', (id) => client.cancel(id));
}
