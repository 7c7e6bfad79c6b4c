import { type Command, Option } from 'commander';
import type { Client } from '../../client.ts';
import type { Task, TaskFilter, TaskStatus } from '../../types.ts';
import { formatOption, given, integer, STATUSES } from '../arguments.ts';
import { lanesOf, showCauses } from '../causes.ts';
import type { Context } from '../context.ts';
import type { Act } from '../families.ts';
import type { Column, Output } from '../output.ts';
import { ago } from '../times.ts';

type Options = {
  status?: TaskStatus;
  queue?: string;
  level?: number;
  batch?: string;
  limit: number;
  offset: number;
  order: 'asc' | 'desc';
};

export function define(command: Command, act: Act): void {
  command
    .addOption(new Option('--status <status>', 'only those in this state').choices(STATUSES))
    .option('--queue <queue>', 'only those of this queue')
    .option('--level <level>', 'only those of this level', integer(0, 99))
    .option('--batch <id>', 'only the lines of this batch')
    .option('--limit <n>', 'how many', integer(1), 20)
    .option('--offset <n>', 'pass over the first n', integer(), 0)
    .addOption(new Option('--order <order>', 'newest or oldest first').choices(['asc', 'desc']).default('desc'))
    .addOption(formatOption('table', 'text'))
    .addHelpText(
      'after',
      '\nExamples:\n  tasklane list --status running --limit 10\n  tasklane list --queue documents --json',
    )
    .action(act(list));
}

async function list({ client, out, signal }: Context, options: Options): Promise<void> {
  const { limit, offset, order } = options;
  const filter: TaskFilter = given({
    status: options.status,
    queue: options.queue,
    level: options.level,
    batch_id: options.batch,
  });
  const tasks: Task[] = [];
  let more = false;
  let index = 0;
  for await (const task of client.list({ ...filter, order, limit: Math.min(offset + limit + 1, 1000) }, { signal })) {
    if (index++ < offset) continue;
    more = tasks.length === limit;
    if (more) break;
    tasks.push(task);
  }
  await out.either({ data: tasks, has_more: more }, async () => {
    if (tasks.length === 0) return out.print('No tasks found');
    await showTasks(out, tasks);
    await showWhy(client, out, tasks);
    out.print(
      `\nTotal: ${tasks.length} task${tasks.length === 1 ? '' : 's'}${more ? ', and there are more (--limit, --offset)' : ''}`,
    );
  });
}

/** What keeps those that have not ended, lane by lane. */
async function showWhy(client: Client, out: Output, tasks: readonly Task[]): Promise<void> {
  const open = new Set(tasks.filter(({ status }) => OPEN.has(status)).map(({ queue, level }) => `${queue}:${level}`));
  if (open.size === 0) return;
  const lanes = lanesOf(await client.queues.list());
  showCauses(
    out,
    lanes.filter(({ queue, level }) => open.has(`${queue}:${level}`)),
  );
}
const OPEN: ReadonlySet<string> = new Set(['waiting', 'deferred', 'running']);

const COLUMNS: readonly Column[] = [
  { head: 'ID' },
  { head: 'QUEUE', cut: true },
  { head: 'LEVEL', right: true },
  { head: 'STATUS' },
  { head: 'MODEL', cut: true },
  { head: 'CREATED' },
];

export async function showTasks(out: Output, tasks: readonly Task[]): Promise<void> {
  const rows = tasks.map((task) => [
    task.task_id,
    task.queue,
    task.level,
    colouredStatus(out, task.status),
    task.data?.model,
    ago(task.start_time),
  ]);
  await out.table(COLUMNS, rows);
}

export function colouredStatus(out: Output, status: string): string {
  if (status === 'succeeded' || status === 'completed') return out.paint('green', status);
  if (status === 'failed' || status === 'dead') return out.paint('red', status);
  if (status === 'running' || status === 'in_progress') return out.paint('cyan', status);
  if (status === 'expired' || status === 'cancelled') return out.paint('yellow', status);
  return status;
}
