// A worker that answers a lane's lines until it is ended, from whichever of its servers is there: the first three by four
// with 200, the others with 400, and each with its own custom id.

import { setTimeout as pause } from 'node:timers/promises';

const [servers = '', lane = '', size = '50'] = process.argv.slice(2);
const urls = servers.split(',');
/** Short, so that what a killed server handed out comes again soon. */
const LEASE_SECONDS = 2;

type Taken = { task_id: string; attempt: number; custom_id: string };

/** Asks until somebody answers. */
async function call(path: string, body: object) {
  for (;;) {
    try {
      const answer = await fetch(`${urls[0]}/v1/queue/${path}`, {
        method: 'POST',
        headers: { Authorization: `Bearer ${process.env.WORKER_KEY}`, 'Content-Type': 'application/json' },
        body: JSON.stringify(body),
      });
      if (answer.ok) return await answer.json();
    } catch {
      // killed, or not there yet
    }
    urls.push(urls.shift() as string);
    await pause(20);
  }
}

const take = { queues: [lane], size: Number(size), wait: 1, lease_seconds: LEASE_SECONDS, process_max_retries: -1 };
for (;;) {
  const lanes = (await call('take', take)) as Record<string, Taken[]>;
  const results = (lanes[lane] ?? []).map(({ task_id, attempt, custom_id }) => ({
    task_id,
    attempt,
    status_code: Number(custom_id.slice(1)) % 4 === 3 ? 400 : 200,
    body: { echo: custom_id, usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } },
  }));
  if (results.length > 0) await call('complete', { results });
}
