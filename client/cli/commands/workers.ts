import type { Command } from 'commander';
import type { UpstreamReport, WorkerInfo } from '../../types.ts';
import { each } from '../arguments.ts';
import type { Context } from '../context.ts';
import { EXIT, Failure } from '../failure.ts';
import type { Act } from '../families.ts';
import type { Column, Output, Style } from '../output.ts';
import { ago, exactly, span } from '../times.ts';

export function define(command: Command, act: Act): void {
  const list = async ({ client, out }: Context) => {
    const workers = await client.workers.list();
    await out.either(workers, () => showWorkers(out, workers));
  };
  command
    .command('list', { isDefault: true })
    .alias('ls')
    .description('who takes tasks, and how their upstreams are (the default)')
    .action(act(list));
  command.command('show').description('a worker and its upstreams').argument('<id>', 'or a name').action(act(show));
  command
    .command('drain')
    .description('let workers end what they have, and take no more')
    .argument('<id...>', 'or a name: then all that bear it')
    .action(
      act(({ client, out }: Context, ids: string[]) => each(out, ids, 'drains', (id) => client.workers.drain(id))),
    );
  command
    .command('resume')
    .description('let drained workers take tasks again')
    .argument('<id...>', 'or a name: then all that bear it')
    .action(
      act(({ client, out }: Context, ids: string[]) => each(out, ids, 'resumed', (id) => client.workers.resume(id))),
    );
}

export const WORKERS: readonly Column[] = [
  { head: 'WORKER', cut: true },
  { head: 'ID', cut: true },
  { head: 'LANES', cut: true },
  { head: 'RUNNING', right: true },
  { head: 'RATE', right: true },
  { head: 'SEEN' },
  { head: 'STATE' },
];
export const UPSTREAM_COLUMNS: readonly Column[] = [
  { head: 'UPSTREAM', cut: true },
  { head: 'WORKER', cut: true },
  { head: 'STATE' },
  { head: 'SINCE' },
  { head: 'BUSY', right: true },
  { head: 'SAYS', cut: true },
];

/** Those that have not been seen for long come last, as the server has them. */
export async function showWorkers(out: Output, workers: readonly WorkerInfo[]): Promise<void> {
  if (workers.length === 0) return out.print('No worker has asked for tasks lately');
  await out.table(
    WORKERS,
    workers.map((worker) => workerRow(out, worker)),
  );
  const upstreams = upstreamRows(out, workers);
  if (upstreams.length === 0) return;
  out.print('');
  await out.table(
    UPSTREAM_COLUMNS,
    upstreams.map(({ row }) => row),
  );
}

export const workerRow = (out: Output, { id, name, lanes, running, rate, last_seen, state }: WorkerInfo): unknown[] => [
  name || id,
  id,
  lanes.join(','),
  running,
  `${rate.toFixed(1)}/s`,
  ago(last_seen),
  out.paint(STYLES[state], state),
];

/** Of the workers that are there. */
export const upstreamRows = (out: Output, workers: readonly WorkerInfo[]): { row: unknown[]; isWell: boolean }[] =>
  workers
    .filter(({ state }) => state === 'active' || state === 'draining')
    .flatMap(({ id, name, upstreams }) =>
      (upstreams ?? []).map((upstream) => ({
        row: [
          upstream.url,
          name || id,
          out.paint(STYLES[upstream.state], upstream.state),
          ago(upstream.since),
          `${upstream.in_flight}/${upstream.limit}`,
          words(upstream),
        ],
        isWell: upstream.state === 'healthy',
      })),
    );

const words = ({ status, message }: UpstreamReport): string =>
  [status, message?.replace(/\s+/g, ' ').trim()].filter(Boolean).join(' ') || '-';

const STYLES: Record<WorkerInfo['state'] | UpstreamReport['state'], Style> = {
  active: 'green',
  draining: 'yellow',
  stopped: 'gray',
  lost: 'red',
  healthy: 'green',
  refusing: 'yellow',
  failing: 'red',
  away: 'red',
};

/** All of a name, where it is no id. */
async function show({ client, out }: Context, idOrName: string): Promise<void> {
  const all = await client.workers.list();
  const own = all.filter(({ id }) => id === idOrName);
  const found = own.length > 0 ? own : all.filter(({ name }) => name === idOrName);
  if (found.length === 0) throw new Failure(`there is no worker ${idOrName}`, EXIT.notFound, 'see: tasklane workers');
  await out.either(found.length === 1 ? found[0] : found, () => {
    for (const [index, worker] of found.entries()) {
      if (index > 0) out.print('');
      out.fields([
        ['Worker', worker.id],
        ['Name', worker.name],
        ['Host', worker.host],
        ['State', out.paint(STYLES[worker.state], worker.state)],
        ['Lanes', worker.lanes.join(', ')],
        ['Running', worker.running],
        ['Rate', `${worker.rate.toFixed(1)}/s`],
        ['First seen', exactly(worker.first_seen)],
        ['Last seen', exactly(worker.last_seen)],
        ['Stopped', exactly(worker.stopped_at)],
        ['Room', worker.capacities && JSON.stringify(worker.capacities)],
      ]);
      for (const upstream of worker.upstreams ?? []) showUpstream(out, upstream);
    }
  });
}

function showUpstream(out: Output, upstream: UpstreamReport): void {
  out.print('');
  out.fields([
    ['Upstream', upstream.url],
    [
      'State',
      `${out.paint(STYLES[upstream.state], upstream.state)}, for ${span((Date.now() - upstream.since) / 1000)}`,
    ],
    ['Says', [upstream.status, upstream.message].filter(Boolean).join(' ')],
    ['In flight', `${upstream.in_flight} of ${upstream.limit}`],
    ['Queues', upstream.queues?.join(', ')],
  ]);
}
