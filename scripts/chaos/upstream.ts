import { type ChildProcess, spawn } from 'node:child_process';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { createClient } from '../../client/client.ts';
import { SERVER } from '../server.ts';
import { ANSWERS, MOOD_NAMES, type Mood, startMoody } from './moody.ts';
import { mulberry32 } from './random.ts';

const { values: flags } = parseArgs({
  options: {
    seconds: { type: 'string', default: '600' },
    lines: { type: 'string', default: '5000' },
    seed: { type: 'string', default: String(Date.now() % 100_000) },
    help: { type: 'boolean', default: false, short: 'h' },
  },
});
if (flags.help) {
  console.log(`npm run chaos:upstream -- [--seconds N] [--lines N] [--seed N]   runs a batch and live requests before a model server
that changes its behaviour every 3 seconds. Status 1 when one has neither its own answer nor a named cause, or when work
pauses for more than 2 seconds while the model server answers.`);
  process.exit(0);
}

const ROOT = join(import.meta.dirname, '..', '..');
const CHAT = '/v1/chat/completions';
const KEY = 'chaos-admin-key-0123456789';
const CHANGE_MS = 3000;
const LONGEST_PAUSE_MS = 2000;
const ANSWER_MS = 50;
const LIVE = 4;
const SETTLE_MS = 120_000;
const random = mulberry32(Number(flags.seed));
const children: ChildProcess[] = [];
const dataDir = await mkdtemp(join(tmpdir(), 'tasklane-chaos-'));
// As root, Postgres runs as a user who must be able to enter the folder.
await chmod(dataDir, 0o711);

let answeredAt = performance.now();
const moody = await startMoody({
  answerMs: ANSWER_MS,
  onAnswer() {
    answeredAt = performance.now();
  },
});
process.once('exit', () => {
  for (const child of children) child.kill('SIGKILL');
});
try {
  process.exitCode = (await run()) ? 0 : 1;
} finally {
  for (const child of children.reverse()) await stop(child);
  await moody.stop();
  await rm(dataDir, { recursive: true, force: true });
}

async function run(): Promise<boolean> {
  const [, url] = await start(
    SERVER,
    { PORT: '0', TASKLANE_DATA_DIR: dataDir, TASKLANE_ADMIN_KEY: KEY },
    /listening on (\S+)/,
  );
  const client = createClient({ baseUrl: url as string, apiKey: KEY });
  await client.queues.register('moody', CHAT);
  const worker = [
    'client/tasklane.js',
    'worker',
    '--upstream',
    moody.url,
    '--queues',
    'moody:0,moody:1',
    '--timeout',
    '2',
  ];
  await start(worker, { TASKLANE_URL: url as string, TASKLANE_API_KEY: KEY }, /ready/);

  const lines = Array.from({ length: Number(flags.lines) }, (_, n) => ({
    custom_id: `line-${n}`,
    method: 'POST' as const,
    url: CHAT,
    body: { model: 'moody', messages: [{ role: 'user', content: `line-${n}` }] },
  }));
  const batch = await client.batches.submit(lines, { endpoint: CHAT });
  const wrong: string[] = [];
  const causes: Record<string, number> = {};
  const count = (cause: string) => {
    causes[cause] = (causes[cause] ?? 0) + 1;
  };

  let over = false;
  let live = 0;
  const ask = async (who: number) => {
    for (let n = 0; !over; n++) {
      const words = `live-${who}-${n}`;
      const verdict = await answerTo(url as string, words).catch((error: Error) => `WRONG ${error.message}`);
      if (verdict.startsWith('WRONG')) wrong.push(`${words}: ${verdict}`);
      count(`live: ${verdict}`);
      live++;
      await sleep(100);
    }
  };
  const asking = Array.from({ length: LIVE }, (_, who) => ask(who));

  let healthySince: number | undefined = performance.now();
  let longest = 0;
  const watch = setInterval(() => {
    const now = performance.now();
    if (healthySince === undefined) return;
    const pause = now - Math.max(answeredAt, healthySince);
    if (pause > longest) longest = pause;
  }, 20);
  const moods: Record<string, number> = {};
  for (
    const until = performance.now() + Number(flags.seconds) * 1000;
    performance.now() < until;
    await sleep(CHANGE_MS)
  ) {
    const mood = random() < 1 / 3 ? 'well' : (MOOD_NAMES[Math.floor(random() * MOOD_NAMES.length)] as Mood);
    moods[mood] = (moods[mood] ?? 0) + 1;
    if (!ANSWERS.has(mood)) healthySince = undefined;
    await moody.become(mood);
    if (ANSWERS.has(mood)) healthySince ??= performance.now();
  }
  await moody.become('well');
  over = true;
  clearInterval(watch);
  await Promise.all(asking);

  const ended = await client.batches.wait(batch.id, { signal: AbortSignal.timeout(SETTLE_MS) }).catch(() => undefined);
  const seen = new Set<string>();
  if (ended === undefined) wrong.push(`the batch has not ended: ${(await client.batches.explain(batch.id)).reason}`);
  for (const id of [ended?.output_file_id, ended?.error_file_id]) {
    if (!id) continue;
    const text = await (await client.files.content(id)).text();
    for (const line of text.trim().split('\n')) {
      const { custom_id, response, error } = JSON.parse(line);
      if (seen.has(custom_id)) wrong.push(`${custom_id} is there twice`);
      seen.add(custom_id);
      const verdict = response
        ? verdictOf(response.status_code, response.body, custom_id)
        : (error?.code ?? 'WRONG no cause');
      if (verdict.startsWith('WRONG')) wrong.push(`${custom_id}: ${verdict} ${line.slice(0, 300)}`);
      count(`line: ${verdict}`);
    }
  }
  if (seen.size !== lines.length) wrong.push(`${lines.length - seen.size} lines are missing`);
  if (longest > LONGEST_PAUSE_MS)
    wrong.push(`work paused for ${Math.round(longest)} ms while the model server answered`);

  console.log(`seed ${flags.seed}; ${live} live requests, ${lines.length} lines; moods ${JSON.stringify(moods)}`);
  console.log(`longest pause while it answered: ${Math.round(longest)} ms`);
  for (const [cause, times] of Object.entries(causes).sort(([, a], [, b]) => b - a)) console.log(`${times}  ${cause}`);
  for (const one of wrong.slice(0, 30)) console.log(`WRONG: ${one}`);
  console.log(
    wrong.length === 0
      ? 'Every request and every line has its answer or a named cause.'
      : `${wrong.length} things are wrong.`,
  );
  return wrong.length === 0;
}

/** Its own answer, or what it was told instead. */
async function answerTo(url: string, words: string): Promise<string> {
  const reply = await fetch(`${url}${CHAT}`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${KEY}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ model: 'moody', messages: [{ role: 'user', content: words }] }),
    signal: AbortSignal.timeout(90_000),
  });
  return verdictOf(reply.status, await reply.json(), words);
}

function verdictOf(status: number, body: unknown, words: string): string {
  const { choices, error } = Object(body);
  if (status === 200) return choices?.[0]?.message?.content === words ? 'answered' : 'WRONG answer';
  return error?.message
    ? `${status} ${error.code ?? ''} ${String(error.message).slice(0, 60)}`
    : `WRONG ${status} without words`;
}

/** A process of ours, when it has printed what says that it is ready; gives the match. */
async function start(args: readonly string[], env: Record<string, string>, ready: RegExp): Promise<RegExpExecArray> {
  const child = spawn(process.execPath, args, {
    cwd: ROOT,
    env: { PATH: process.env.PATH, TASKLANE_LOG_LEVEL: 'fatal', ...env },
    stdio: ['ignore', 'pipe', process.env.VERBOSE ? 'inherit' : 'ignore'],
  });
  children.push(child);
  for await (const line of createInterface({ input: child.stdout as NodeJS.ReadableStream })) {
    const found = ready.exec(line);
    if (!found) continue;
    child.stdout?.resume();
    return found;
  }
  throw new Error(`${args.join(' ')} ended before it was ready`);
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  await gone;
}
