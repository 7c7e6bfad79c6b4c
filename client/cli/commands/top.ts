import type { Command } from 'commander';
import type { Client } from '../../client.ts';
import { sleep } from '../../http.ts';
import type { Batch, LaneStats, WorkerInfo } from '../../types.ts';
import { integer } from '../arguments.ts';
import type { Context } from '../context.ts';
import type { Act } from '../families.ts';
import { type Column, type Output, renderTable } from '../output.ts';
import { span } from '../times.ts';
import { colouredStatus } from './list.ts';
import { WORKERS, workerRow } from './workers.ts';

type Options = { once?: true; interval: number };

export function define(command: Command, act: Act): void {
  command
    .option('--once', 'print one frame, and end')
    .option('--interval <seconds>', 'between looks', integer(1, 3600), 1)
    .addHelpText(
      'after',
      '\nq or Ctrl-C ends it. It needs a key of role worker or admin; batches are shown to an admin.',
    )
    .action(act(top));
}

/** What is looked at, at one moment. */
type Look = { at: number; lanes: LaneStats[]; workers: WorkerInfo[]; batches: Batch[] };

async function look(client: Client): Promise<Look> {
  const [lanes, workers, { data }] = await Promise.all([
    client.stats(),
    client.workers.list(),
    // Of a worker's key: it has none of its own, and sees those of nobody.
    client.batches
      .list({ limit: 20 })
      .page()
      .catch((error) => {
        if (error.status === 403) return { data: [] };
        throw error;
      }),
  ]);
  return { at: Date.now(), lanes, workers, batches: data.filter(({ status }) => !ENDED.has(status)) };
}

const ENDED: ReadonlySet<string> = new Set(['failed', 'completed', 'expired', 'cancelled']);

async function top(context: Context, { once, interval }: Options): Promise<void> {
  const { out } = context;
  const client = await context.patient();
  const first = await look(client);
  if (out.json) return out.data({ lanes: first.lanes, workers: first.workers, batches: first.batches });
  if (once || !process.stdout.isTTY) return void out.print(await frame(out, context.config.url, first));
  const { createLogUpdate } = await import('log-update');
  const screen = createLogUpdate(process.stdout);
  const leaving = new AbortController();
  const leave = () => leaving.abort();
  const onKey = (key: Buffer) => {
    if (key.includes('q') || key.includes('\u0003')) leave();
  };
  const raw = process.stdin.isTTY;
  if (raw) process.stdin.setRawMode(true).on('data', onKey).resume();
  // Not once: restoring the cursor ends the process where nobody listens to the signal any more.
  for (const signal of SIGNALS) process.on(signal, leave);
  try {
    for (let before: Look | undefined, now = first; !leaving.signal.aborted; ) {
      const height = (process.stdout.rows ?? 24) - 1;
      const lines = (await frame(out, context.config.url, now, before)).split('\n');
      screen(lines.slice(0, height).join('\n'));
      await sleep(interval * 1000, leaving.signal).catch(() => undefined);
      if (leaving.signal.aborted) break;
      before = now;
      now = await look(client);
    }
  } finally {
    screen.done();
    for (const signal of SIGNALS) process.off(signal, leave);
    if (raw) process.stdin.setRawMode(false).off('data', onKey).pause();
  }
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const LANES: readonly Column[] = [
  { head: 'LANE', cut: true },
  { head: 'WAITING', right: true },
  { head: 'DEFERRED', right: true },
  { head: 'RUNNING', right: true },
  { head: 'OLDEST', right: true },
  { head: 'IN/S', right: true },
  { head: 'OUT/S', right: true },
];
const BATCHES: readonly Column[] = [
  { head: 'BATCH' },
  { head: 'STATUS' },
  { head: 'DONE', right: true },
  { head: 'FAILED', right: true },
  { head: 'TOTAL', right: true },
];

/** Rates come from what the totals were at the look before. */
async function frame(out: Output, url: string, now: Look, before?: Look): Promise<string> {
  const width = process.stdout.columns ?? 80;
  const seconds = before ? (now.at - before.at) / 1000 : 0;
  const rate = (lane: LaneStats, of: 'total_put_cnt' | 'total_completed_cnt') => {
    const was = before?.lanes.find(({ queue, level }) => queue === lane.queue && level === lane.level);
    return was && seconds > 0 ? ((Number(lane[of]) - Number(was[of])) / seconds).toFixed(1) : '-';
  };
  const busiest = now.lanes.toSorted((a, b) => b.running + b.waiting - a.running - a.waiting);
  const lanes = busiest.map((lane) => [
    `${lane.queue}:${lane.level}`,
    lane.waiting,
    lane.deferred,
    lane.running,
    lane.oldest_waiting_ms === null ? undefined : span(lane.oldest_waiting_ms / 1000),
    rate(lane, 'total_put_cnt'),
    rate(lane, 'total_completed_cnt'),
  ]);
  const sum = (of: 'waiting' | 'running') => now.lanes.reduce((total, lane) => total + Number(lane[of]), 0);
  const parts = [
    `${out.paint('bold', 'tasklane top')}  ${url}  ${sum('waiting')} waiting, ${sum('running')} running, ${now.workers.length} workers  ${new Date(now.at).toISOString().slice(11, 19)}`,
    lanes.length > 0 ? await renderTable(LANES, lanes, width) : 'No lanes',
  ];
  if (now.workers.length > 0) parts.push(await renderTable(WORKERS, now.workers.slice(0, 10).map(workerRow), width));
  if (now.batches.length > 0) {
    const rows = now.batches
      .slice(0, 10)
      .map(({ id, status, request_counts: { completed, failed, total } }) => [
        id,
        colouredStatus(out, status),
        completed,
        failed,
        total,
      ]);
    parts.push(await renderTable(BATCHES, rows, width));
  }
  return parts.join('\n\n');
}
