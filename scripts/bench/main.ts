import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { type Bench, startBench } from './bench.ts';
import { batches } from './measures/batches.ts';
import { dtqe } from './measures/dtqe.ts';
import { growth } from './measures/growth.ts';
import { idle } from './measures/idle.ts';
import { lives } from './measures/lives.ts';
import { parked } from './measures/parked.ts';
import { puts } from './measures/puts.ts';
import { roundtrip } from './measures/roundtrip.ts';
import { servers } from './measures/servers.ts';
import { snapshot } from './measures/snapshot.ts';
import { streaming } from './measures/streaming.ts';
import { backlogs, lanes } from './measures/takes.ts';
import { worker } from './measures/worker.ts';
import { type Findings, machine, passes, print } from './report.ts';

const MEASURES: Record<string, { what: string; run(bench: Bench): Promise<Findings>; extra?: true }> = {
  idle: { what: 'what a server costs that has nothing to do', run: idle },
  puts: { what: 'one request a put, beside an Express echo, BullMQ, pg-boss and graphile-worker', run: puts },
  lives: { what: 'whole lives, one by one and in bulk, beside graphile-worker and pg-boss', run: lives },
  backlogs: { what: 'takes of ten from 1,000 to 10,000,000 waiting tasks', run: backlogs },
  lanes: { what: 'takes of one lane and of 200', run: lanes },
  roundtrip: { what: 'a blocking client and an idle worker, over one server and over two', run: roundtrip },
  streaming: { what: '200 streams of 20 events a second', run: streaming },
  parked: { what: '10,000 parked clients: what they cost others, and memory', run: parked },
  dtqe: { what: 'a hundred times the load of a published benchmark', run: dtqe },
  servers: { what: 'one, two and four server processes on one database', run: servers },
  snapshot: { what: 'takes while a session holds a snapshot for ten minutes', run: snapshot },
  growth: { what: 'how each call grows with what there is, from 1,000 to 10,000,000', run: growth, extra: true },
  batches: { what: 'batches beside bulk calls, and the memory they take', run: batches, extra: true },
  worker: { what: 'workers before a model server that refuses and fails', run: worker, extra: true },
};

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
    help: { type: 'boolean', default: false, short: 'h' },
  },
});
const unknown = positionals.find((name) => !(name in MEASURES));
if (flags.help || unknown !== undefined) {
  if (unknown !== undefined) console.error(`${unknown} is none of the measurements`);
  console.log(`npm run bench -- [measurement …] [--quick] [--json FILE]

Measures Tasklane on this machine, with a Postgres of its own, beside what people would use instead; checks every answer. Without a
name: all but growth, batches and worker, in about half an hour. --quick: in two minutes, roughly. --json: writes the figures there as well.

${Object.entries(MEASURES)
  .map(([name, { what }]) => `  ${name.padEnd(11)}${what}`)
  .join('\n')}`);
  process.exit(unknown === undefined ? 0 : 2);
}

const chosen = Object.entries(MEASURES).filter(([name, { extra }]) =>
  positionals.length > 0 ? positionals.includes(name) : !extra,
);
const found: Record<string, Findings> = {};
let stop = async (): Promise<void> => undefined;
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  process.once(signal, () => void stop().finally(() => process.exit(code)));
}
let bench: Awaited<ReturnType<typeof startBench>> | undefined;
for (const [name, { run }] of chosen) {
  console.error(`${name} …`);
  // A Postgres each, but where there is no time for it: what one leaves behind for vacuum would be the next one's load.
  bench ??= await startBench({ quick: flags.quick, rounds: flags.quick ? 3 : 5 });
  stop = bench.stop;
  try {
    found[name] = await run(bench);
  } catch (error) {
    await stop();
    throw error;
  }
  if (!flags.quick) {
    await stop();
    bench = undefined;
  }
}
await stop();
const all = Object.values(found);
const findings = { rows: all.flatMap(({ rows }) => rows), bars: all.flatMap(({ bars = [] }) => bars) };
console.log(`${machine()}\n\n${print(findings)}`);
const missed = findings.bars.filter((bar) => !passes(bar)).length;
if (missed > 0)
  console.log(
    `\n${missed} of ${findings.bars.length} bars were missed${flags.quick ? ' (a quick run is noisy)' : ''}.`,
  );
if (flags.json)
  await writeFile(flags.json, `${JSON.stringify({ machine: machine(), quick: flags.quick, found }, undefined, 2)}\n`);
