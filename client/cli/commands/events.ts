import type { Command } from 'commander';
import type { EventType, FeedEvent } from '../../types.ts';
import { commaList, given } from '../arguments.ts';
import type { Context } from '../context.ts';
import type { Act } from '../families.ts';
import { colouredStatus } from './list.ts';

type Options = { types?: EventType[]; queue?: string; task?: string; batch?: string; since?: string };

export function define(command: Command, act: Act): void {
  command
    .option(
      '--types <types>',
      'only these, separated by commas: submitted, started, progress, released, retried, completed, failed, dead, expired, cancelled, priority_updated, replayed',
      commaList,
    )
    .option('--queue <queue>', 'only of this queue')
    .option('--task <id>', 'only of this task')
    .option('--batch <id>', "only of this batch's lines")
    .option('--since <event>', 'go on after the event of this id; 0: all that are kept')
    .addHelpText(
      'after',
      '\nGoes on until Ctrl-C. With --json each line is an event, whose id --since takes.\n\nExample:\n  tasklane events --types failed,dead --queue documents',
    )
    .action(act(follow));
}

async function follow(context: Context, { types, queue, task, batch, since }: Options): Promise<void> {
  const { out } = context;
  const client = await context.patient();
  const filter = given({ types, queue, task_id: task, batch_id: batch, lastEventId: since });
  for await (const event of client.events(filter)) {
    if (out.json) out.line(event);
    else out.print(lineOf(event, out));
  }
}

function lineOf(event: FeedEvent, out: Context['out']): string {
  const time = new Date(event.timestamp).toISOString().slice(11, 23);
  const data = event.data === undefined ? '' : `  ${JSON.stringify(event.data).slice(0, 200)}`;
  const status = colouredStatus(out, event.status);
  return `${time}  ${event.type.padEnd(10)}  ${event.task_id}  ${event.queue}:${event.level}  ${status}${data}`;
}
