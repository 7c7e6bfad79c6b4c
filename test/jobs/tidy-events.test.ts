import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { talk, until } from '../acceptance/clients.ts';
import { createRecorder } from '../support/feed.ts';
import { type Server, startServer } from '../support/server.ts';

let server: Server;
const psql = createRecorder(() => server.databaseUrl);
/** What the crontab does every minute. */
const tidy = () => psql.query(`select graphile_worker.add_job('tidy_events')`);
const count = async (from: string): Promise<number> =>
  (await psql.query(`select count(*)::int as n from ${from}`))[0].n;

before(async () => {
  server = await startServer({ env: { TASKLANE_EVENT_RETENTION_SECONDS: '60' } });
});
after(async () => {
  await psql.close();
  await server?.stop();
});

test('what is staged while nobody follows is numbered, and what is older than events are kept is deleted', async () => {
  await talk(server).register('q');
  const [id] = (await talk(server).puts('q', 1)) as [string];
  await psql.record(Array(6000).fill(id));
  await tidy();
  await until('all events are numbered', async () => (await count('tasklane.event')) === 6000);
  assert.equal(await count('tasklane.event_stage'), 0);
  await psql.query("update tasklane.event set created_at = now() - interval '10 seconds'");
  await psql.query("update tasklane.event set created_at = now() - interval '61 seconds' where number <= 5500");
  await tidy();
  await until('the old events are deleted', async () => (await count('tasklane.event')) < 6000);
  await until('the job has ended', async () => (await count('graphile_worker.jobs')) === 0);
  assert.equal(await count('tasklane.event where number > 5500'), 500);
  assert.equal(await count('tasklane.event'), 500);
});
