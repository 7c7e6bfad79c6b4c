import type { Command } from 'commander';
import { PermissionDeniedError } from '../../errors.ts';
import type { Attempt, Task } from '../../types.ts';
import { answerText } from '../answer-text.ts';
import { formatOption } from '../arguments.ts';
import { lanesOf, showCauses } from '../causes.ts';
import type { Context } from '../context.ts';
import type { Act } from '../families.ts';
import { LANES, laneRows } from '../lanes.ts';
import { exactly, span } from '../times.ts';
import { colouredStatus } from './list.ts';
import { showWorkers } from './workers.ts';

export function define(command: Command, act: Act): void {
  command
    .argument('[id]', 'a task; without it, all queues')
    .addOption(formatOption('table', 'text'))
    .addHelpText('after', '\nExamples:\n  tasklane status\n  tasklane status TASK-1-0-0-261128120000-0001-000001')
    .action(
      act(async (context: Context, id?: string) => (id === undefined ? showQueues(context) : showTask(context, id))),
    );
}

async function showQueues({ client, out }: Context): Promise<void> {
  // A client's key sees what waits and runs in the queues; totals and workers are for others.
  const allowed = async <Value>(value: Promise<Value>) =>
    value.catch((error) => {
      if (error instanceof PermissionDeniedError) return undefined;
      throw error;
    });
  const [queues, stats, workers] = await Promise.all([
    client.queues.list(),
    allowed(client.stats()),
    allowed(client.workers.list()),
  ]);
  await out.either({ queues, ...(stats && { lanes: stats }), ...(workers && { workers }) }, async () => {
    if (queues.length === 0)
      return out.print('No queues. Register one: tasklane queues register NAME --endpoint /v1/chat/completions');
    out.print(out.paint('bold', 'Queue statistics'));
    await out.table(LANES, laneRows(queues, stats));
    showCauses(out, lanesOf(queues));
    if (!workers) return;
    out.print(`\n${out.paint('bold', 'Workers')}`);
    await showWorkers(out, workers);
  });
}

const PREVIEW = 200;
const preview = (text: string): string => {
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length > PREVIEW ? `${line.slice(0, PREVIEW)}…` : line;
};

async function showTask({ client, out }: Context, id: string): Promise<void> {
  const [task, explanation] = await Promise.all([client.get(id), client.explain(id)]);
  const { position, eta_seconds: eta } = explanation;
  await out.either({ ...task, explanation }, async () => {
    out.fields([
      ['Task', task.task_id],
      ['Status', colouredStatus(out, task.status)],
      ['Why', explanation.reason],
      ['Ahead of it', position],
      ['May begin in', eta === null ? undefined : span(eta)],
      ['Queue', `${task.queue}, level ${task.level}`],
      ['Endpoint', task.endpoint],
      ['Model', task.data?.model],
      ['Mode', task.response_mode],
      ['Priority', task.priority],
      ['Batch', task.batch_id],
      ['Line', task.custom_id],
      ['Key', task.ak],
      ['Trace', task.trace_id],
      ['Metadata', task.metadata && JSON.stringify(task.metadata)],
      ['Callback', task.callback_url],
      ['Put', exactly(task.start_time)],
      ['Runs at', exactly(task.run_at)],
      ['Taken', exactly(task.running_time)],
      ['Ended', exactly(task.completed_time)],
      ['Expires', task.completed_time ? undefined : exactly(task.expire_time)],
      ['Attempts', task.attempts?.length ? undefined : task.attempt],
      ['Data', preview(JSON.stringify(task.data))],
      ['Answer', task.result && `${task.result.status_code} ${preview(answerText(task.result.body))}`],
    ]);
    await showAttempts(out, task);
  });
}

const reasonOf = ({ reason, refusals }: Attempt) => (refusals ? `refused ${refusals}×: ${reason}` : reason);

async function showAttempts(out: Context['out'], { attempts = [] }: Task): Promise<void> {
  if (attempts.length === 0) return;
  out.print('');
  const columns = [
    { head: 'ATTEMPT', right: true },
    { head: 'WORKER', cut: true },
    { head: 'TAKEN' },
    { head: 'ENDED' },
    { head: 'REASON', cut: true },
  ];
  const time = (ms: number) => (ms ? new Date(ms).toISOString().slice(0, 19) : undefined);
  await out.table(
    columns,
    attempts.map((one) => [one.attempt, one.worker, time(one.taken_at), time(one.ended_at), reasonOf(one)]),
  );
}
