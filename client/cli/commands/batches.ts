import type { Command } from 'commander';
import { batchHasEnded } from '../../batches.ts';
import type { Batch } from '../../types.ts';
import { integer } from '../arguments.ts';
import type { Context } from '../context.ts';
import { Failure, usage } from '../failure.ts';
import type { Act } from '../families.ts';
import type { Column } from '../output.ts';
import { ago, exactly, span } from '../times.ts';
import { colouredStatus } from './list.ts';
import { downloadBatch, watchBatch } from './submit-batch.ts';

export function define(command: Command, act: Act): void {
  command
    .command('list', { isDefault: true })
    .alias('ls')
    .description('batches, newest first (the default)')
    .option('--limit <n>', 'how many', integer(1, 100), 20)
    .action(act(list));
  command.command('show').description('a batch, and why it is where it is').argument('<id>').action(act(show));
  command
    .command('watch')
    .description('wait until it has ended; exit 0 only if every line succeeded')
    .argument('<id>')
    .option('--output <file>', 'where the answers go; - is stdout')
    .option('--errors <file>', 'where what failed goes')
    .action(act(watchBatch));
  const change = (name: 'cancel' | 'pause' | 'resume', description: string) =>
    command
      .command(name)
      .description(description)
      .argument('<id>')
      .action(
        act(async ({ client, out }: Context, id: string) => {
          const batch = await client.batches[name](id);
          await out.either(batch, () => out.print(`${id} ${batch.status}${name === 'pause' ? ', paused' : ''}`));
        }),
      );
  change('cancel', 'withdraw the lines that have no answer yet');
  change('pause', 'hand out no more of its lines');
  change('resume', 'hand out its lines again');
  command
    .command('retry')
    .description('run what failed again, as a batch of its own')
    .argument('<id>', 'a batch that has ended')
    .action(
      act(async ({ client, out }: Context, id: string) => {
        const batch = await client.batches.retryFailed(id);
        await out.either(batch, () => out.print(batch.id));
      }),
    );
  command
    .command('download')
    .description('the files of a batch that has ended')
    .argument('<id>')
    .option('--output <file>', 'where the answers go; - is stdout, and the default')
    .option('--errors <file>', 'where what failed goes')
    .addHelpText(
      'after',
      '\nExample:\n  tasklane batches download BATCH-1 --output answers.jsonl --errors errors.jsonl',
    )
    .action(act(download));
}

const COLUMNS: readonly Column[] = [
  { head: 'ID' },
  { head: 'STATUS' },
  { head: 'DONE', right: true },
  { head: 'FAILED', right: true },
  { head: 'TOTAL', right: true },
  { head: 'MODEL', cut: true },
  { head: 'CREATED' },
];

async function list({ client, out }: Context, { limit }: { limit: number }): Promise<void> {
  const page = await client.batches.list({ limit }).page();
  await out.either(page, async () => {
    if (page.data.length === 0) return out.print('No batches');
    const row = ({ id, status, request_counts: counts, model, created_at }: Batch) => [
      id,
      colouredStatus(out, status),
      counts.completed,
      counts.failed,
      counts.total,
      model,
      ago(created_at * 1000),
    ];
    await out.table(COLUMNS, page.data.map(row));
    if (page.has_more) out.print('\nand there are more (--limit)');
  });
}

async function show({ client, out }: Context, id: string): Promise<void> {
  const [batch, explanation] = await Promise.all([client.batches.get(id), client.batches.explain(id)]);
  const { completed, failed, total } = batch.request_counts;
  const hasEnded = batchHasEnded(batch);
  const time = (seconds: number | null) => exactly(seconds === null ? null : seconds * 1000);
  await out.either({ ...batch, explanation }, () => {
    out.fields([
      ['Batch', batch.id],
      ['Status', colouredStatus(out, batch.status)],
      ['Endpoint', batch.endpoint],
      ['Model', batch.model],
      [
        'Lines',
        `${total}: ${completed} succeeded, ${failed} failed, ${explanation.running} running, ${explanation.waiting} waiting`,
      ],
      ['Ahead of it', hasEnded ? undefined : explanation.position],
      ['Through in', hasEnded || explanation.eta_seconds === null ? undefined : span(explanation.eta_seconds)],
      ['Why', explanation.reason],
      ['Tokens', batch.usage.total_tokens || undefined],
      ['Created', time(batch.created_at)],
      ['Expires', batch.completed_at === null ? time(batch.expires_at) : undefined],
      ['Ended', time(batch.completed_at ?? batch.failed_at ?? batch.expired_at ?? batch.cancelled_at)],
      ['Input', batch.input_file_id],
      ['Output', batch.output_file_id],
      ['Errors', batch.error_file_id],
      ['Metadata', batch.metadata && JSON.stringify(batch.metadata)],
    ]);
    for (const { line, message } of batch.errors?.data ?? [])
      out.print(`  ${line === null ? '' : `line ${line}: `}${message}`);
  });
}

async function download(context: Context, id: string, files: { output?: string; errors?: string }): Promise<void> {
  if (files.output === '-' && files.errors === '-') throw usage('only one of them can go to stdout');
  const batch = await context.client.batches.get(id);
  if (batch.output_file_id === null && batch.error_file_id === null) {
    throw new Failure(
      `${id} is ${batch.status}, and has no files`,
      undefined,
      `wait for it with: tasklane batches watch ${id}`,
    );
  }
  await downloadBatch(
    context,
    batch,
    files.output === undefined && files.errors === undefined ? { output: '-' } : files,
  );
}
