import type { Command } from 'commander';
import type { WorkerInfo } from '../../types.ts';
import { each } from '../arguments.ts';
import type { Context } from '../context.ts';
import type { Act } from '../families.ts';
import type { Column, Output } from '../output.ts';
import { ago } from '../times.ts';

export function define(command: Command, act: Act): void {
  const list = async ({ client, out }: Context) => {
    const workers = await client.workers.list();
    await out.either(workers, () => showWorkers(out, workers));
  };
  command
    .command('list', { isDefault: true })
    .alias('ls')
    .description('who takes tasks (the default)')
    .action(act(list));
  command
    .command('drain')
    .description('let workers end what they have, and take no more')
    .argument('<id...>')
    .action(
      act(({ client, out }: Context, ids: string[]) => each(out, ids, 'drains', (id) => client.workers.drain(id))),
    );
  command
    .command('resume')
    .description('let drained workers take tasks again')
    .argument('<id...>')
    .action(
      act(({ client, out }: Context, ids: string[]) => each(out, ids, 'resumed', (id) => client.workers.resume(id))),
    );
}

const COLUMNS: readonly Column[] = [
  { head: 'WORKER', cut: true },
  { head: 'LANES', cut: true },
  { head: 'RUNNING', right: true },
  { head: 'RATE', right: true },
  { head: 'SEEN' },
  { head: 'STATE' },
];

/** Those that have not been seen for long come last, as the server has them. */
export async function showWorkers(out: Output, workers: readonly WorkerInfo[]): Promise<void> {
  if (workers.length === 0) return out.print('No worker has asked for tasks lately');
  await out.table(COLUMNS, workers.map(workerRow));
}

export const WORKERS = COLUMNS;
export const workerRow = ({ id, name, lanes, running, rate, last_seen, draining }: WorkerInfo): unknown[] => [
  name || id,
  lanes.join(','),
  running,
  `${rate.toFixed(1)}/s`,
  ago(last_seen),
  draining ? 'draining' : 'active',
];
