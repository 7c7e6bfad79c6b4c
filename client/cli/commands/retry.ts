import type { Command } from 'commander';
import { ConflictError } from '../../errors.ts';
import { each } from '../arguments.ts';
import type { Context } from '../context.ts';
import { Failure } from '../failure.ts';
import type { Act } from '../families.ts';

export function define(command: Command, act: Act): void {
  command
    .argument('<id...>', 'tasks that are dead')
    .addHelpText('after', '\nAll dead tasks of a queue: tasklane dead replay --queue QUEUE')
    .action(act(retry));
}

async function retry({ client, out }: Context, ids: string[]): Promise<void> {
  await each(out, ids, 'replayed', async (id) => {
    try {
      await client.dead.replay(id);
    } catch (error) {
      if (!(error instanceof ConflictError)) throw error;
      const { status } = await client.get(id);
      throw new Failure(`is ${status}: ${ADVICE[status] ?? 'submit it again'}`);
    }
  });
}

const ADVICE: Record<string, string> = {
  waiting: 'its turn will come',
  deferred: 'its time will come',
  running: 'a worker has it; it is tried again by itself when that fails',
  succeeded: 'there is nothing to retry',
  failed: 'a worker has answered it, which is final; submit it again',
};
