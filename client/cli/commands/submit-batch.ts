import { createReadStream, createWriteStream, openAsBlob } from 'node:fs';
import { open as openFile, stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { blob } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import type { Command } from 'commander';
import type { Batch } from '../../types.ts';
import { given, pairs } from '../arguments.ts';
import type { Context } from '../context.ts';
import { EXIT, Failure, usage } from '../failure.ts';
import type { Act } from '../families.ts';
import { itemsOf, submitItems } from '../items.ts';
import { showProgress } from '../progress.ts';
import { span } from '../times.ts';

type Options = {
  file: string;
  endpoint?: string;
  completionWindow?: string;
  queue?: string;
  metadata?: Record<string, string>;
  wait?: true;
  output?: string;
  errors?: string;
};

export function defineBatch(command: Command, act: Act): void {
  command
    .description('a file of requests')
    .requiredOption('--file <file>', "OpenAI's batch format, or items of ollama-queue; - is stdin")
    .option('--endpoint <endpoint>', "the lines' endpoint; that of the first by default")
    .option('--completion-window <window>', 'how long it may take, as 90m, 24h or 7d (default: 24h)')
    .option('--queue <queue>', 'takes all lines, in place of the routes of their models')
    .option('--metadata <name=value>', 'kept with the batch; give it again for more', pairs)
    .option('--wait', 'wait until it has ended; exit 0 only if every line succeeded')
    .option('--output <file>', 'with --wait: where the answers go; - is stdout')
    .option('--errors <file>', 'with --wait: where what failed goes')
    .addHelpText(
      'after',
      `
A line of OpenAI's format is {"custom_id", "method": "POST", "url", "body"}.
An item of ollama-queue is {"type": "chat"|"generate"|"embed", "model", "priority", "messages"|"prompt"|"input", …}, as a JSON array or
one a line; each is put as a task of its own.

Examples:
  tasklane submit batch --file questions.jsonl --wait --output answers.jsonl
  make-questions | tasklane submit batch --file - --queue documents`,
    )
    .action(act(submitBatch));
}

async function submitBatch(context: Context, options: Options): Promise<void> {
  if (!options.wait && (options.output ?? options.errors) !== undefined) {
    throw usage('--output and --errors go with --wait', 'later: tasklane batches download BATCH --output FILE');
  }
  const { client, out, signal, config } = context;
  const input = await open(options.file);
  if (input.size === 0) throw usage(`${options.file}: is empty`);
  // Found out now, and not when all lines have run.
  for (const path of [options.output, options.errors]) if (path !== undefined && path !== '-') await mayWrite(path);
  const items = await itemsOf(input);
  if (items) return submitItems(context, items, options);
  const queue = options.queue ?? config.submit?.queue;
  const { endpoint, completionWindow, metadata } = options;
  const batch = await client.batches
    .submit(input, given({ endpoint, completionWindow, queue, metadata }), { signal })
    .catch((error) => {
      if (error instanceof TypeError)
        throw usage(`${options.file}: ${error.message}`, 'see: tasklane submit batch --help');
      throw error;
    });
  if (!options.wait) return out.either(batch, () => out.print(batch.id));
  if (!out.json && options.output !== '-') out.print(batch.id);
  await watchBatch(context, batch.id, options);
}

/** Shows how a batch goes, until it has ended. Throws Failure unless every line has succeeded. */
export async function watchBatch(
  context: Context,
  id: string,
  files: { output?: string; errors?: string } = {},
): Promise<void> {
  const { out, signal } = context;
  const client = await context.patient();
  const progress = await showProgress();
  let batch: Batch;
  try {
    batch = await client.batches.wait(id, {
      signal,
      onProgress: ({ request_counts: { total, completed, failed } }) =>
        progress.update({ total, failed, done: completed + failed }),
    });
  } catch (error) {
    if (signal.aborted) out.note(`\nthe batch goes on: tasklane batches watch ${id}`);
    throw error;
  } finally {
    progress.stop();
  }
  await downloadBatch(context, batch, files);
  if (out.json) out.data(batch);
  const { total, completed } = batch.request_counts;
  const seconds = (endOf(batch) ?? batch.created_at) - batch.created_at;
  const summary = `${id} ${batch.status}: ${completed} of ${total} succeeded in ${span(seconds)}`;
  const faults = batch.errors?.data
    .slice(0, 10)
    .map(({ line, message }) => `\n  ${line === null ? '' : `line ${line}: `}${message}`);
  if (batch.status !== 'completed' || completed < total) {
    throw new Failure(
      summary + (faults?.join('') ?? ''),
      batch.status === 'expired' ? EXIT.timedOut : EXIT.failed,
      batch.error_file_id
        ? `what failed: tasklane batches download ${id} --errors -; again: tasklane batches retry ${id}`
        : undefined,
    );
  }
  if (!out.json) out.note(summary);
}

const endOf = (batch: Batch) => batch.completed_at ?? batch.failed_at ?? batch.expired_at ?? batch.cancelled_at;

/** Writes a batch's files to where they are asked for. */
export async function downloadBatch(
  { client, signal }: Context,
  batch: Batch,
  { output, errors }: { output?: string; errors?: string },
): Promise<void> {
  const wanted: [string | null, string | undefined][] = [
    [batch.output_file_id, output],
    [batch.error_file_id, errors],
  ];
  for (const [fileId, path] of wanted) {
    if (path === undefined) continue;
    const content = fileId === null ? undefined : (await client.files.content(fileId, { signal })).body;
    const source = content ? Readable.fromWeb(content as Parameters<typeof Readable.fromWeb>[0]) : Readable.from([]);
    if (path === '-') await pipeline(source, process.stdout, { end: false });
    else
      await pipeline(source, createWriteStream(path)).catch((error) =>
        Promise.reject(usage(`${path}: ${error.message}`)),
      );
  }
}

/** Throws Failure where nothing can be written; a file that is there stays as it is. */
async function mayWrite(path: string): Promise<void> {
  try {
    await (await openFile(path, 'a')).close();
  } catch (error) {
    throw usage(`${path}: ${(error as Error).message}`);
  }
}

/** A file is read as it is sent, and is never in memory as a whole; what comes through a pipe is. */
async function open(path: string): Promise<Blob> {
  try {
    if (path === '-') return await blob(process.stdin);
    return (await stat(path)).isFile() ? await openAsBlob(path) : await blob(createReadStream(path));
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw usage(`${path}: ${code === 'ENOENT' ? 'there is no such file' : message}`);
  }
}
