import type { Batch, LaneStats, WorkerInfo } from '../types.ts';
import { causesOf, isTroubled, styleOf } from './causes.ts';
import { colouredStatus } from './commands/list.ts';
import { UPSTREAM_COLUMNS, upstreamRows, WORKERS, workerRow } from './commands/workers.ts';
import { type Column, type Output, renderTable } from './output.ts';
import { span } from './times.ts';

/** What is looked at, at one moment. */
export type Look = { at: number; lanes: LaneStats[]; workers: WorkerInfo[]; batches: Batch[] };
/** Since when the server has not answered, and what was the matter. */
export type Silence = { since: number; why: string };

const MARK: Column = { head: ' ' };
const LANES: readonly Column[] = [
  MARK,
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
/** So many causes leave room for the lanes. */
const CAUSES = 5;
const WORST = ['upstream_failing', 'upstream_refusing', 'worker_lost', 'no_worker', 'limit', 'paused'];
const time = (at: number) => new Date(at).toISOString().slice(11, 19);

/** The lines above all others: what is asked, and whether it answers. */
export function headLines(out: Output, url: string, now: Look, silence: Silence | undefined, width: number): string[] {
  const sum = (of: 'waiting' | 'running') => now.lanes.reduce((total, lane) => total + lane[of], 0);
  const there = now.workers.filter(({ state }) => state === 'active' || state === 'draining').length;
  const counts = `${sum('waiting')} waiting, ${sum('running')} running, ${there} workers`;
  const lines = [
    `${out.paint('bold', 'tasklane top')}${fit(`  ${url}`, width - 'tasklane top'.length)}`,
    fit(`${counts}  ${time(now.at)} UTC`, width),
  ];
  if (silence) {
    const since = `no answer for ${span((Date.now() - silence.since) / 1000)}, since ${time(silence.since)} UTC`;
    lines.push(out.paint(['red', 'bold'], fit(`! ${since}: ${silence.why}`, width)));
  }
  return lines;
}

/** Everything else: what is wrong first. Rates come from what the totals were at the look before. */
export async function bodyLines(out: Output, now: Look, before: Look | undefined, width: number): Promise<string[]> {
  const parts: string[] = [];
  const causes = causesOf(now.lanes).toSorted((a, b) => WORST.indexOf(a.rule) - WORST.indexOf(b.rule));
  const lines = causes
    .slice(0, CAUSES)
    .flatMap(({ lane, rule, reason }) =>
      wrap(`! ${lane}: ${reason}`, width).map((line) => out.paint(styleOf(rule), line)),
    );
  if (causes.length > CAUSES) lines.push(`  and ${causes.length - CAUSES} more lanes: see tasklane queues`);
  if (lines.length > 0) parts.push(lines.join('\n'));
  const busiest = now.lanes.toSorted(
    (a, b) => Number(isTroubled(b)) - Number(isTroubled(a)) || b.running + b.waiting - a.running - a.waiting,
  );
  const lanes = busiest.map((lane) => laneRow(out, lane, now, before));
  parts.push(lanes.length > 0 ? await renderTable(LANES, lanes, width) : 'No lanes');
  const workers = now.workers.map((worker) => [
    worker.state === 'lost' ? out.paint('red', '!') : ' ',
    ...workerRow(out, worker),
  ]);
  if (workers.length > 0) parts.push(await renderTable([MARK, ...WORKERS], workers, width));
  const upstreams = upstreamRows(out, now.workers).map(({ row, isWell }) => [
    isWell ? ' ' : out.paint('red', '!'),
    ...row,
  ]);
  if (upstreams.length > 0) parts.push(await renderTable([MARK, ...UPSTREAM_COLUMNS], upstreams, width));
  const batches = now.batches.map(({ id, status, request_counts: { completed, failed, total } }) => [
    id,
    colouredStatus(out, status),
    completed,
    failed,
    total,
  ]);
  if (batches.length > 0) parts.push(await renderTable(BATCHES, batches, width));
  return parts.join('\n\n').split('\n');
}

function laneRow(out: Output, lane: LaneStats, now: Look, before: Look | undefined): unknown[] {
  const seconds = before ? (now.at - before.at) / 1000 : 0;
  const was = before?.lanes.find(({ queue, level }) => queue === lane.queue && level === lane.level);
  const rate = (of: 'total_put_cnt' | 'total_completed_cnt') =>
    was && seconds > 0 ? ((lane[of] - was[of]) / seconds).toFixed(1) : '-';
  return [
    isTroubled(lane) ? out.paint(styleOf(lane.rule), '!') : ' ',
    `${lane.queue}:${lane.level}`,
    lane.waiting,
    lane.deferred,
    lane.running,
    lane.oldest_waiting_ms === null ? undefined : span(lane.oldest_waiting_ms / 1000),
    rate('total_put_cnt'),
    rate('total_completed_cnt'),
  ];
}

/** The part of the body that a terminal has room for from line `from` on, below the head and above a line of help. */
export function fitted(head: readonly string[], body: readonly string[], from: number, height: number) {
  const room = Math.max(1, height - head.length - 2);
  const last = Math.max(0, body.length - room);
  const at = Math.min(Math.max(0, from), last);
  const part = body.slice(at, at + room);
  const place = last === 0 ? '' : `lines ${at + 1} to ${at + part.length} of ${body.length}  up, down, PgUp, PgDn  `;
  return { at, room, lines: [...head, '', ...part, `${place}q leaves`].slice(0, height) };
}

const fit = (text: string, width: number): string =>
  text.length > width ? `${text.slice(0, Math.max(0, width - 1))}…` : text;

/** Lines of whole words; those after the first are set in. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const line = lines.at(-1);
    if (line !== undefined && line.length + 1 + word.length <= width) lines[lines.length - 1] = `${line} ${word}`;
    else lines.push(fit(line === undefined ? word : `  ${word}`, width));
  }
  return lines;
}
