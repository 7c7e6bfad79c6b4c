import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { loadConfig } from '../../server/config.ts';
import { createDatabase } from '../support/database.ts';
import { ownDatabase, runServer, type Server, startServer, until } from '../support/server.ts';

const CHAT = '/v1/chat/completions';

let database: Awaited<ReturnType<typeof createDatabase>>;
before(async () => {
  database = await createDatabase();
});
after(() => database?.drop());

/** A server with one setting changed, for as long as `use` takes. */
async function withSetting<Found>(
  env: Record<string, string>,
  use: (server: Server) => Promise<Found>,
): Promise<Found> {
  const server = await startServer({ url: database.url, env });
  try {
    return await use(server);
  } finally {
    await server.stop();
  }
}

test('the table of settings has each that there is, with its default', () => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/operate.md'), 'utf8');
  const table = page.slice(page.indexOf('## Settings'), page.indexOf('## Which Postgres'));
  const rows = [...table.matchAll(/^\| `(\w+)` \| (.*?) ?\|/gm)].map(([, name, value]) => [
    name as string,
    value as string,
  ]);
  const config: Record<string, unknown> = loadConfig({
    DATABASE_URL: 'postgres://x/y',
    TASKLANE_DIRECT_URL: 'postgres://x/y',
    TASKLANE_ADMIN_KEY: 'x'.repeat(16),
    TASKLANE_INSTANCE: 'a:1',
    TASKLANE_FILE_QUOTA_BYTES: '1',
  });
  assert.deepEqual(rows.map(([name]) => name).sort(), Object.keys(config).sort());
  for (const [name, value] of rows)
    if (/^[\da-z.]+$/.test(value as string)) assert.equal(String(config[name as string]), value, name);
});

describe('a setting does what it says:', () => {
  test('HOST is the one address that is listened on', async () => {
    await withSetting({ HOST: '127.0.0.2' }, async (server) => {
      const { port, hostname } = new URL(server.url);
      assert.equal(hostname, '127.0.0.2');
      assert.equal((await fetch(`${server.url}/health`)).status, 200);
      await assert.rejects(fetch(`http://127.0.0.1:${port}/health`));
    });
  });

  test('PORT is the port, and another server can not have it', async () => {
    const port = await withSetting({}, async (server) => new URL(server.url).port);
    await withSetting({ PORT: port }, async (server) => {
      assert.equal(new URL(server.url).port, port);
      const second = await runServer({ PORT: port, DATABASE_URL: database.url, TASKLANE_LOG_LEVEL: 'fatal' });
      assert.equal(second.code, 1);
      assert.match(second.stderr, /is taken/);
    });
  });

  test('TASKLANE_ADMIN_KEY is the key that may do everything, and no other is', async () => {
    const other = 'another-admin-key-of-the-tests';
    await withSetting({ TASKLANE_ADMIN_KEY: other }, async (server) => {
      assert.equal((await server.request('GET', '/v1/keys', undefined, { key: other })).status, 200);
      assert.equal((await server.request('GET', '/v1/keys', undefined, { key: 'admin-key-of-the-tests' })).status, 401);
    });
  });

  test('TASKLANE_LOG_LEVEL decides what is logged: all that is below it is left out', async () => {
    const lines = async (level: string) =>
      withSetting({ TASKLANE_LOG_LEVEL: level }, async (server) => {
        await server.kill('SIGTERM');
        return server.stderr;
      });
    const [info, silent] = await Promise.all([lines('info'), lines('silent')]);
    assert.match(info, /"msg":"stopping"/);
    assert.equal(silent, '');
  });

  test('TASKLANE_MAX_BODY_BYTES is the largest body, to the byte', async () => {
    await withSetting({ TASKLANE_MAX_BODY_BYTES: '1024' }, async (server) => {
      const body = (bytes: number) => JSON.stringify({ queue: 'limited', endpoint: CHAT }).padEnd(bytes);
      const register = (bytes: number) => server.request('POST', '/v1/queue/register', body(bytes));
      assert.equal((await register(1024)).status, 200);
      const refused = await register(1025);
      assert.equal(refused.status, 413);
      assert.match(refused.json.message, /1024 bytes/);
    });
  });

  test('TASKLANE_DIRECT_URL takes all that needs a session, and nothing is prepared on the other way', async () => {
    let said = '';
    const pooler = createServer((client) => {
      const { hostname, port } = new URL(database.url);
      const postgres = connect(Number(port), hostname);
      client.on('data', (bytes) => {
        said += bytes.toString('latin1');
      });
      client.pipe(postgres).pipe(client);
      for (const socket of [client, postgres]) socket.on('error', () => undefined);
    }).listen(0, '127.0.0.1');
    await once(pooler, 'listening');
    const { port } = pooler.address() as AddressInfo;
    const pooled = Object.assign(new URL(database.url), { hostname: '127.0.0.1', port }).href;
    try {
      await withSetting({ DATABASE_URL: pooled, TASKLANE_DIRECT_URL: database.url }, async (server) => {
        await server.request('POST', '/v1/queue/register', { queue: 'direct', endpoint: CHAT });
        const put = await server.request('POST', '/v1/queue/put', { queue: 'direct', endpoint: CHAT, data: {} });
        assert.equal(put.status, 200);
      });
    } finally {
      pooler.close();
    }
    // What is to be prepared says its name before its text.
    assert.ok(said.includes('\0select * from tasklane.put_tasks('));
    assert.ok(!said.includes('put_tasks\0select'));
    for (const word of ['listen tasklane', 'pg_advisory_lock(', 'graphile_worker'])
      assert.ok(!said.includes(word), word);
  });

  test('TASKLANE_MAX_CONNECTIONS is as many sessions as work for a server, and the rest waits its turn', async (t) => {
    const { url: own, psql, start: startOne } = await ownDatabase(t);
    const start = (name: string, connections: number) => {
      const url = Object.assign(new URL(own), { search: `?application_name=${name}` }).href;
      return startOne({ url, env: { TASKLANE_MAX_CONNECTIONS: String(connections) } });
    };
    const servers = await Promise.all([start('few', 2), start('many', 5)]);
    const blocked = async (name: string): Promise<number> => {
      const held = `select count(*)::int as n from pg_stat_activity where application_name = $1 and wait_event_type = 'Lock'`;
      // Within a transaction, what was seen of other sessions is seen again.
      await psql.query('select pg_stat_clear_snapshot()');
      return (await psql.query(held, [name])).rows[0].n;
    };
    // Whatever reads queues waits, each in a session of its own.
    await psql.query('begin; lock table tasklane.queue in access exclusive mode');
    const asked = servers.flatMap((server) => Array.from({ length: 10 }, () => server.request('GET', '/v1/queues')));
    await until(async () => (await blocked('many')) >= 5 && (await blocked('few')) >= 2);
    assert.deepEqual([await blocked('few'), await blocked('many')], [2, 5]);
    await psql.query('commit');
    for (const answer of await Promise.all(asked)) assert.equal(answer.status, 200);
  });

  test('TASKLANE_DATABASE_SECONDS is how long a call may take; then it is a 503, and the next one goes on', async (t) => {
    const { psql, start } = await ownDatabase(t);
    const server = await start({ env: { TASKLANE_DATABASE_SECONDS: '1', TASKLANE_LOG_LEVEL: 'silent' } });
    await psql.query('begin; lock table tasklane.queue in access exclusive mode');
    const refused = await server.request('GET', '/v1/queues');
    assert.equal(refused.status, 503);
    assert.equal(refused.headers.get('retry-after'), '1');
    await psql.query('rollback');
    assert.equal((await server.request('GET', '/v1/queues')).status, 200);
  });
});
