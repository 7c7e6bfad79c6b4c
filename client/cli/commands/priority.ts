import type { Command } from 'commander';
import type { Priority } from '../../types.ts';
import { priority } from '../arguments.ts';
import type { Context } from '../context.ts';
import type { Act } from '../families.ts';

export function define(command: Command, act: Act): void {
  command
    .argument('<id>', 'a task that waits or is deferred')
    .argument('<level>', 'low (1), normal (5), high (10), critical (15), or 0 to 100', priority)
    .addHelpText('after', '\nExample:\n  tasklane priority TASK-1-0-0-261128120000-0001-000001 high')
    .action(act(setPriority));
}

async function setPriority({ client, out }: Context, id: string, level: Priority): Promise<void> {
  const task = await client.setPriority(id, level);
  await out.either(task, () =>
    out.print(`Task ${id} priority updated to ${level}${task.priority === level ? '' : ` (${task.priority})`}`),
  );
}
