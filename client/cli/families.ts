import type { Command } from 'commander';
import type { Context } from './context.ts';

/** Makes of what a command does an action of Commander's, whose arguments, options and command it gets after its context. */
export type Act = <Args extends unknown[]>(
  run: (context: Context, ...args: Args) => Promise<void>,
) => (...args: Args) => Promise<void>;

export type Family = {
  name: string;
  aliases?: string[];
  summary: string;
  group: string;
  /** Commands are read when they are used: reading all of them would cost every start. */
  load(): Promise<{ define(command: Command, act: Act): void }>;
};

const RUN = 'Run:';
const TASKS = 'Tasks:';
const BULK = 'Batches and schedules:';
const LOOK = 'See what goes on:';
const SETUP = 'Set up:';

export const FAMILIES: readonly Family[] = [
  { name: 'serve', group: RUN, summary: 'run a server', load: () => import('./commands/serve.ts') },
  {
    name: 'worker',
    group: RUN,
    summary: 'take tasks and let a model server answer them',
    load: () => import('./commands/worker.ts'),
  },
  {
    name: 'submit',
    group: TASKS,
    summary: 'put a task, or a batch of them',
    load: () => import('./commands/submit.ts'),
  },
  {
    name: 'list',
    group: TASKS,
    aliases: ['ls'],
    summary: 'list tasks, newest first',
    load: () => import('./commands/list.ts'),
  },
  {
    name: 'status',
    group: TASKS,
    summary: 'show a task, or how the queues are',
    load: () => import('./commands/status.ts'),
  },
  { name: 'cancel', group: TASKS, summary: 'withdraw tasks', load: () => import('./commands/cancel.ts') },
  {
    name: 'priority',
    group: TASKS,
    summary: "change a waiting task's priority",
    load: () => import('./commands/priority.ts'),
  },
  { name: 'retry', group: TASKS, summary: 'give dead tasks a new life', load: () => import('./commands/retry.ts') },
  {
    name: 'dead',
    group: TASKS,
    summary: 'list, replay or remove dead tasks',
    load: () => import('./commands/dead.ts'),
  },
  { name: 'batches', group: BULK, summary: 'look after batches', load: () => import('./commands/batches.ts') },
  {
    name: 'schedules',
    group: BULK,
    aliases: ['cron'],
    summary: 'tasks that are put again and again',
    load: () => import('./commands/schedules.ts'),
  },
  { name: 'top', group: LOOK, summary: 'watch lanes, workers and batches', load: () => import('./commands/top.ts') },
  { name: 'events', group: LOOK, summary: 'follow what happens to tasks', load: () => import('./commands/events.ts') },
  { name: 'workers', group: LOOK, summary: 'who takes tasks', load: () => import('./commands/workers.ts') },
  {
    name: 'doctor',
    group: LOOK,
    summary: 'check server and database, and say what to do',
    load: () => import('./commands/doctor.ts'),
  },
  {
    name: 'queues',
    group: SETUP,
    summary: 'register and configure queues',
    load: () => import('./commands/queues.ts'),
  },
  { name: 'channels', group: SETUP, summary: 'route models to queues', load: () => import('./commands/channels.ts') },
  { name: 'keys', group: SETUP, summary: 'make and revoke API keys', load: () => import('./commands/keys.ts') },
  {
    name: 'completion',
    group: SETUP,
    summary: 'print a completion script for a shell',
    load: () => import('./commands/completion.ts'),
  },
];
