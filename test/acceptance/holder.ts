// A worker to be killed: takes one task under a short lease, says which, and never answers.

const [server, queue] = process.argv.slice(2);
const answer = await fetch(`${server}/v1/queue/take`, {
  method: 'POST',
  headers: { Authorization: `Bearer ${process.env.WORKER_KEY}`, 'Content-Type': 'application/json' },
  body: JSON.stringify({ queues: [`${queue}:0`], size: 1, wait: 30, lease_seconds: 1, worker: { id: 'holder' } }),
});
const lanes = (await answer.json()) as Record<string, { task_id: string }[]>;
process.stdout.write(`${lanes[`${queue}:0`]?.[0]?.task_id}\n`);
setInterval(() => undefined, 60_000);
