import { setTimeout as pause } from 'node:timers/promises';
import { chat, createClient } from '../../../client/client.ts';
import { type Concurrency, createExecutor, createWorker } from '../../../client/worker.ts';
import type { Bench } from '../bench.ts';
import { KEY } from '../http.ts';
import type { Findings, Row } from '../report.ts';

type Case = {
  tasks: number;
  /** Of the model server, which refuses what is beyond its places, and fails by chance. */
  places: number;
  latency: number;
  faults: number;
  settings: Concurrency[];
  reserve?: number;
};

/** Tasks a second, once through all of them, with each setting of the concurrency of a worker that has just begun. */
export async function worker(bench: Bench): Promise<Findings> {
  const rows: Row[] = [];
  for (const faults of [0, 0.05]) {
    const settings: Concurrency[] = [16, 32, 48, 'auto'];
    const tasks = bench.quick ? 2_000 : 10_000;
    rows.push(...(await measure(bench, { tasks, places: 32, latency: 100, faults, settings, reserve: 0 })));
  }
  for (const latency of [5, 20, 50, 200, 1400]) {
    const tasks = Math.min(bench.quick ? 2_000 : 10_000, Math.ceil(10_000 / latency) * 57);
    rows.push(...(await measure(bench, { tasks, places: 64, latency, faults: 0, settings: [64, 'auto'] })));
  }
  return { rows };
}

async function measure(bench: Bench, of: Case): Promise<Row[]> {
  const { tasks, places, latency, faults, settings, reserve } = of;
  const upstream = await bench.program(['scripts/bench/upstream.ts'], {
    PLACES: `${places}`,
    LATENCY_MS: `${latency}`,
    FAULTS: `${faults}`,
  });
  const running = await bench.server(await bench.database(`worker_${latency}_${faults * 100}`));
  const tasklane = createClient({ baseUrl: running.url, apiKey: KEY });
  const results = [];
  for (const concurrency of settings) {
    const queue = `upstream-${concurrency}`;
    await tasklane.queues.register(queue, '/v1/chat/completions', { max_attempts: 3 });
    const puts = Array.from({ length: tasks }, (_, n) =>
      chat({ queue, level: 1, model: 'm', messages: [{ role: 'user', content: `task ${n}` }] }),
    );
    const ids = await tasklane.puts(puts);
    await fetch(`${upstream.url}/gate`);
    const worker = createWorker({
      baseUrl: running.url,
      apiKey: KEY,
      queues: [`${queue}:0`, `${queue}:1`],
      ...(reserve !== undefined && { reserve }),
      executor: createExecutor('openai', { upstreams: [{ url: upstream.url }], concurrency }),
    });
    const began = performance.now();
    await worker.start();
    for (;;) {
      const { total_completed_cnt: ended } = await tasklane.queues.stats(`${queue}:1`);
      if (ended >= tasks) break;
      await pause(50);
    }
    const seconds = (performance.now() - began) / 1000;
    const { refused, most } = (await (await fetch(`${upstream.url}/gate`)).json()) as { refused: number; most: number };
    await worker.stop();

    const expected = new Map(ids.map((id, n) => [id, `echo: task ${n}`]));
    const counts = new Map<string, number>();
    let right = 0;
    for await (const task of tasklane.list({ queue, limit: 1000 })) {
      const body = task.result?.body as { choices: { message: { content: string } }[] } | undefined;
      if (task.status === 'succeeded' && body?.choices[0]?.message.content === expected.get(task.task_id)) right++;
      counts.set(task.status, (counts.get(task.status) ?? 0) + 1);
    }
    results.push({ concurrency, rate: tasks / seconds, refused, most, right, counts });
  }
  await running.stop();
  await upstream.stop();
  const best = Math.max(...results.filter(({ concurrency }) => concurrency !== 'auto').map(({ rate }) => rate));
  return results.map(({ concurrency, rate, refused, most, right, counts }) => ({
    work: `${tasks} tasks, ${latency} ms, ${places} places, ${faults * 100} % of each fault, concurrency ${concurrency}: ${right} answered right (${[...counts].map(([status, count]) => `${count} ${status}`)}), at most ${most} at once, ${refused} refused at the gate`,
    rate,
    note: `${(rate / best).toFixed(2)} of the best fixed`,
  }));
}
