import { Session } from '/work/main/test/support/sql.ts';

const db = await new Session(process.argv[2]!).open();
const q = 'bench' + Date.now();
await db.register(q);
const body = JSON.stringify({ choices: [{ message: { role: 'assistant', content: 'x'.repeat(300) } }] });
const data = JSON.stringify({ model: q, messages: [{ role: 'user', content: 'y'.repeat(300) }] });
const t = { put: [] as number[], take: [] as number[], complete: [] as number[], cancel: [] as number[] };
async function time<T>(name: keyof typeof t, f: () => Promise<T>) {
  const s = performance.now();
  const r = await f();
  t[name].push(((performance.now() - s) * 1000) / N);
  return r;
}
const N = Number(process.argv[3] ?? 500);
for (let i = 0; i < 30; i++) {
  await time('put', () => db.put(Array.from({ length: N }, () => ({ queue: q, data }))));
  const rows = await time('take', () => db.take([`${q}:0`], { size: N }));
  await time('complete', () => db.complete(rows.map((r) => ({ id: r.id, attempt: r.attempt, body }))));
  const put = await db.put(Array.from({ length: N }, () => ({ queue: q, data })));
  await time('cancel', () => db.cancel(put.map((r) => r.id)));
}
for (const [k, v] of Object.entries(t)) console.log(k, v.sort((a, b) => a - b)[15]!.toFixed(1), 'us/task');
await db.client.end();
