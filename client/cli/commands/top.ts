import type { Command } from 'commander';
import type { Client } from '../../client.ts';
import { sleep } from '../../http.ts';
import { integer } from '../arguments.ts';
import type { Context } from '../context.ts';
import { failureOf } from '../failure.ts';
import type { Act } from '../families.ts';
import { bodyLines, fitted, headLines, type Look, type Silence } from '../top-frame.ts';

type Options = { once?: true; interval: number };

export function define(command: Command, act: Act): void {
  command
    .option('--once', 'print one frame, and end')
    .option('--interval <seconds>', 'between looks', integer(1, 3600), 1)
    .addHelpText(
      'after',
      '\nup, down, PgUp and PgDn scroll; q or Ctrl-C ends it. ! marks what is wrong.\nIt needs a key of role worker or admin; batches are shown to an admin.',
    )
    .action(act(top));
}

async function look(client: Client, signal?: AbortSignal): Promise<Look> {
  const options = signal ? { signal } : {};
  const [lanes, workers, { data }] = await Promise.all([
    client.stats(options),
    client.workers.list(options),
    // Of a worker's key: it has none of its own, and sees those of nobody.
    client.batches
      .list({ limit: 20 }, options)
      .page()
      .catch((error) => {
        if (error.status === 403) return { data: [] };
        throw error;
      }),
  ]);
  return { at: Date.now(), lanes, workers, batches: data.filter(({ status }) => !ENDED.has(status)) };
}

const ENDED: ReadonlySet<string> = new Set(['failed', 'completed', 'expired', 'cancelled']);
/** A look that takes longer is none. */
const LATE_MS = 5000;
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

async function top(context: Context, { once, interval }: Options): Promise<void> {
  const { out, client } = context;
  const { url } = context.config;
  const first = await look(client);
  if (out.json) return out.data({ lanes: first.lanes, workers: first.workers, batches: first.batches });
  if (once || !process.stdout.isTTY) {
    const width = process.stdout.columns ?? 80;
    const lines = [
      ...headLines(out, url, first, undefined, width),
      '',
      ...(await bodyLines(out, first, undefined, width)),
    ];
    return out.print(lines.join('\n'));
  }
  const { createLogUpdate } = await import('log-update');
  const screen = createLogUpdate(process.stdout);
  const leaving = new AbortController();
  const leave = () => leaving.abort();
  let before: Look | undefined;
  let now = first;
  let silence: Silence | undefined;
  let from = 0;
  let room = 1;
  let body: string[] = [];

  const draw = () => {
    if (leaving.signal.aborted) return;
    const { columns = 80, rows = 24 } = process.stdout;
    const shown = fitted(headLines(out, url, now, silence, columns), body, from, rows - 1);
    from = shown.at;
    room = shown.room;
    screen(shown.lines.join('\n'));
  };
  const lay = async () => {
    body = await bodyLines(out, now, before, process.stdout.columns ?? 80);
    draw();
  };
  const onKey = (key: Buffer) => {
    const text = key.toString();
    if (text.includes('q') || text.includes('\u0003')) return leave();
    from += scrolled(text, room);
    draw();
  };
  const onResize = () => void lay();

  const raw = process.stdin.isTTY;
  if (raw) process.stdin.setRawMode(true).on('data', onKey).resume();
  process.stdout.on('resize', onResize);
  // Not once: restoring the cursor ends the process where nobody listens to the signal any more.
  for (const signal of SIGNALS) process.on(signal, leave);
  const clock = setInterval(draw, 1000);
  try {
    while (!leaving.signal.aborted) {
      await lay();
      await sleep(interval * 1000, leaving.signal).catch(() => undefined);
      if (leaving.signal.aborted) break;
      try {
        const next = await look(client, AbortSignal.any([leaving.signal, AbortSignal.timeout(LATE_MS)]));
        before = now;
        now = next;
        silence = undefined;
      } catch (error) {
        silence = { since: silence?.since ?? now.at, why: reasonOf(error) };
      }
    }
  } finally {
    clearInterval(clock);
    screen.done();
    for (const signal of SIGNALS) process.off(signal, leave);
    process.stdout.off('resize', onResize);
    if (raw) process.stdin.setRawMode(false).off('data', onKey).pause();
  }
}

/** By how many lines keys scroll: arrows and page keys as terminals send them, and those of vi. */
function scrolled(keys: string, page: number): number {
  const steps: Record<string, number> = { A: -1, k: -1, B: 1, j: 1, '5~': -page, '6~': page, ' ': page };
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is how keys are sent
  const found = keys.matchAll(/\u001b[[O](A|B|5~|6~)|[jk ]/g);
  return [...found].reduce((sum, [key, escaped]) => sum + (steps[escaped ?? key] ?? 0), 0);
}

function reasonOf(error: unknown): string {
  if (error instanceof DOMException && error.name === 'TimeoutError') return `it took longer than ${LATE_MS / 1000}s`;
  return failureOf(error).message.replace(/^no answer from \S+: /, '');
}
