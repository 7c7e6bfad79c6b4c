import { parseArgs } from 'node:util';
import { missing, type Step } from './programs.ts';
import { openReport, type Report } from './report.ts';
import { openWorkshop, type Workshop } from './workshop.ts';

const STEPS: Record<Step, { title: string; load(): Promise<(workshop: Workshop, report: Report) => Promise<void>> }> = {
  pgbouncer: {
    title: 'pgbouncer: a pooler between the servers and Postgres',
    load: async () => (await import('./pgbouncer.ts')).tryPgbouncer,
  },
  standby: {
    title: 'standby: a synchronous standby is promoted under load',
    load: async () => (await import('./standby.ts')).tryStandby,
  },
  replica: {
    title: 'replica: lists and statistics from a hot standby',
    load: async () => (await import('./replica.ts')).tryReplica,
  },
  shards: {
    title: 'shards: queues over two Postgres behind PL/Proxy',
    load: async () => (await import('./shards.ts')).tryShards,
  },
};
const names = Object.keys(STEPS) as Step[];

const { values, positionals } = parseArgs({
  options: { help: { type: 'boolean', default: false, short: 'h' } },
  allowPositionals: true,
});
if (values.help) {
  console.log(`npm run grow -- [${names.join('] [')}]   tries what docs/grow.md says, each step with Postgres, servers and
load of its own in a temporary folder on 127.0.0.1; none given: all of them. Status 1 when something does not hold, 2 when a program is missing.`);
  process.exit(0);
}
const unknown = positionals.find((name) => !names.includes(name as Step));
if (unknown !== undefined) {
  console.error(`${unknown} is not a step: ${names.join(', ')}`);
  process.exit(2);
}
const chosen = positionals.length > 0 ? names.filter((name) => positionals.includes(name)) : names;
const toInstall = missing(chosen);
if (toInstall.length > 0) {
  console.error(toInstall.join('\n'));
  process.exit(2);
}

let workshop: Workshop | undefined;
let stopped: Promise<void> | undefined;
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => {
    stopped ??= (workshop?.close() ?? Promise.resolve()).finally(() => process.exit(signal === 'SIGINT' ? 130 : 143));
  });

let wrong = 0;
for (const name of chosen) {
  const { title, load } = STEPS[name];
  const run = await load();
  const report = openReport(title);
  workshop = await openWorkshop();
  try {
    await run(workshop, report);
  } catch (error) {
    if (stopped) await stopped;
    report.check('the step came to its end', false, (error as Error).message);
  } finally {
    await workshop.close();
  }
  wrong += report.wrong;
}
console.log(wrong === 0 ? '\nAll of it holds.' : `\n${wrong} of it does not hold.`);
process.exitCode = wrong === 0 ? 0 : 1;
