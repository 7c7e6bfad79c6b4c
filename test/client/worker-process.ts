import { setTimeout as pause } from 'node:timers/promises';
import { createWorker } from '../../client/worker.ts';

// A worker as a user writes it: finds its server by the environment, works on one task at a time for as long as each says, and has two more at hand.
const queue = process.argv[2];
const worker = createWorker({
  queues: [`${queue}:0`, `${queue}:1`],
  leaseSeconds: 2,
  prefetch: 2,
  handlers: {
    '*': (task, { signal }) => {
      console.log('begun');
      return pause(task.data.ms ?? 600_000, { slept: true }, { signal });
    },
  },
});
await worker.start();
console.log('ready');
