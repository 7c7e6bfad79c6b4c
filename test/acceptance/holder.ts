// A worker to be ended: takes tasks, answers the first so many, says which it has left, and keeps them. On SIGTERM it gives these back.

const [server, queue, size = '1', answered = '0', lease = '1'] = process.argv.slice(2);

async function call(path: string, body: object) {
  const answer = await fetch(`${server}/v1/queue/${path}`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${process.env.WORKER_KEY}`, 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}: ${await answer.text()}`);
  return answer.json();
}

const take = { queues: [`${queue}:0`], size: Number(size), wait: 30, lease_seconds: Number(lease) };
const lanes = (await call('take', { ...take, worker: { id: 'holder' } })) as Record<string, { task_id: string }[]>;
const ids = (lanes[`${queue}:0`] ?? []).map((task) => task.task_id);
const left = ids.splice(Number(answered));
const results = ids.map((id) => ({ task_id: id, status_code: 200, body: 'by the holder', attempt: 1 }));
if (results.length > 0) await call('complete', { results });

const staying = setInterval(() => undefined, 60_000);
process.on('SIGTERM', async () => {
  for (const id of left) await call(`${id}/release`, { begun: false, attempt: 1 });
  clearInterval(staying);
});
process.stdout.write(`${left.join(' ')}\n`);
