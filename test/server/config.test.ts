import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadConfig } from '../../server/config.ts';
import { ownDatabase, runServer } from '../support/server.ts';

test('without any setting the defaults are those of the contract', () => {
  assert.deepEqual(loadConfig({}), {
    PORT: 8080,
    HOST: '127.0.0.1',
    TASKLANE_DATA_DIR: '.tasklane',
    TASKLANE_LOG_LEVEL: 'info',
    TASKLANE_MAX_BODY_BYTES: 10_485_760,
    TASKLANE_MAX_ANSWER_BYTES: 67_108_864,
    TASKLANE_FORWARD_HEADERS: [],
    TASKLANE_DATABASE_SECONDS: 10,
    TASKLANE_MAX_CONNECTIONS: 10,
    TASKLANE_CALLBACK_ALLOW: [],
    TASKLANE_EVENT_RETENTION_SECONDS: 86_400,
    TASKLANE_IDEMPOTENCY_SECONDS: 86_400,
    TASKLANE_BATCH_MAX_BYTES: 104_857_600,
    TASKLANE_BATCH_MAX_LINES: 50_000,
    TASKLANE_FILE_MAX_BYTES: 536_870_912,
  });
});

test('an empty value counts as unset', () => {
  const config = loadConfig({ PORT: '', DATABASE_URL: '', TASKLANE_ADMIN_KEY: '', TASKLANE_INSTANCE: '' });
  assert.equal(config.PORT, 8080);
  assert.equal(config.DATABASE_URL, undefined);
  assert.equal(config.TASKLANE_ADMIN_KEY, undefined);
});

test('settings are read, and others of the environment are passed over', () => {
  const config = loadConfig({
    PORT: '0',
    HOST: '::1',
    DATABASE_URL: 'postgresql://x@y/z',
    TASKLANE_INSTANCE: '10.0.0.1:80',
    TASKLANE_CALLBACK_ALLOW: ' 127.0.0.0/8, ,::1/128 ',
    PATH: '/bin',
    TASKLANES: 'not ours',
  });
  assert.equal(config.PORT, 0);
  assert.deepEqual(config.TASKLANE_CALLBACK_ALLOW, ['127.0.0.0/8', '::1/128']);
  assert.equal('PATH' in config, false);
  assert.ok(Object.isFrozen(config));
});

test('what clients, workers and the command line go by may be set beside a server, and is no setting of it', () => {
  const others = { TASKLANE_URL: 'http://x', TASKLANE_API_KEY: 'k', TASKLANE_UPSTREAM_KEY: 'u' };
  assert.deepEqual(loadConfig(others), loadConfig({}));
});

const UNKNOWN = {
  TASKLANE_URLS: 'DATABASE_URL',
  TASKLANE_APIKEY: 'TASKLANE_ADMIN_KEY',
  TASKLANE_ADMIN_KEYS: 'TASKLANE_ADMIN_KEY',
  TASKLANE_DATADIR: 'TASKLANE_DATA_DIR',
  TASKLANE_LOGLEVEL: 'TASKLANE_LOG_LEVEL',
  TASKLANE_CALLBACKS_ALLOW: 'TASKLANE_CALLBACK_ALLOW',
  TASKLANE_MAX_BODY: 'TASKLANE_MAX_BODY_BYTES',
};
for (const [name, suggestion] of Object.entries(UNKNOWN)) {
  test(`${name} is refused with ${suggestion} as a suggestion`, () => {
    assert.throws(() => loadConfig({ [name]: 'x' }), {
      message: `${name} is not a setting: did you mean ${suggestion}?`,
    });
  });
}

const BAD: [string, string][] = [
  ['PORT', '65536'],
  ['PORT', '-1'],
  ['PORT', '80.5'],
  ['PORT', 'http'],
  ['DATABASE_URL', 'mysql://x'],
  ['TASKLANE_DIRECT_URL', 'mysql://x'],
  ['TASKLANE_DIRECT_URL', 'postgres://without/database_url'],
  ['TASKLANE_ADMIN_KEY', 'short'],
  ['TASKLANE_INSTANCE', 'a b'],
  ['TASKLANE_LOG_LEVEL', 'loud'],
  ['TASKLANE_MAX_BODY_BYTES', '1'],
  ['TASKLANE_MAX_BODY_BYTES', '10MB'],
  ['TASKLANE_MAX_ANSWER_BYTES', '1'],
  ['TASKLANE_MAX_ANSWER_BYTES', '1073741824'],
  ['TASKLANE_FORWARD_HEADERS', 'x-tenant,Authorization'],
  ['TASKLANE_FORWARD_HEADERS', 'content-length'],
  ['TASKLANE_FORWARD_HEADERS', 'Transfer-Encoding'],
  ['TASKLANE_FORWARD_HEADERS', 'a b'],
  ['TASKLANE_FORWARD_HEADERS', Array.from({ length: 33 }, (_, n) => `x-${n}`).join()],
  ['TASKLANE_MAX_CONNECTIONS', '1'],
  ['TASKLANE_EVENT_RETENTION_SECONDS', '59'],
  ['TASKLANE_EVENT_RETENTION_SECONDS', '31536001'],
  ['TASKLANE_IDEMPOTENCY_SECONDS', '0'],
  ['TASKLANE_IDEMPOTENCY_SECONDS', '31536001'],
  ['TASKLANE_BATCH_MAX_BYTES', '1023'],
  ['TASKLANE_BATCH_MAX_LINES', '0'],
  ['TASKLANE_FILE_MAX_BYTES', '8589934593'],
  ['TASKLANE_FILE_QUOTA_BYTES', '-1'],
];
for (const [name, value] of BAD) {
  test(`${name}=${value} is refused by name, without its value`, () => {
    assert.throws(
      () => loadConfig({ [name]: value }),
      ({ message }: Error) => {
        assert.match(message, new RegExp(`^${name}: `));
        return true;
      },
    );
  });
}

test('all faults are named at once, one a line', () => {
  assert.throws(
    () => loadConfig({ PORT: 'x', TASKLANE_ADMIN_KEY: 'short', TASKLANE_HOST: 'x' }),
    ({ message }: Error) => {
      const lines = message.split('\n');
      assert.equal(lines.length, 3);
      for (const name of ['PORT', 'TASKLANE_ADMIN_KEY', 'TASKLANE_HOST'])
        assert.ok(
          lines.some((line) => line.startsWith(name)),
          name,
        );
      assert.ok(!message.includes('short'), 'a secret is not repeated');
      return true;
    },
  );
});

test('a server with an unknown setting does not start: it says so on stderr and ends with 1', async () => {
  const { code, stdout, stderr } = await runServer({ TASKLANE_ADMINKEY: 'x'.repeat(20), PORT: '0' });
  assert.equal(code, 1);
  assert.equal(stdout, '');
  assert.equal(stderr, 'tasklane: TASKLANE_ADMINKEY is not a setting: did you mean TASKLANE_ADMIN_KEY?\n');
});

test('a server on a port that is taken, or without its database, ends with 1 and says why', async (t) => {
  const { url: there, start } = await ownDatabase(t);
  const first = await start();
  const port = new URL(first.url).port;
  const second = await runServer({ PORT: port, DATABASE_URL: there, TASKLANE_LOG_LEVEL: 'fatal' });
  assert.equal(second.code, 1);
  assert.match(second.stderr, new RegExp(`^tasklane: .*port ${port} is taken`, 'm'));

  const url = Object.assign(new URL(there), { pathname: '/nowhere' }).href;
  const lost = await runServer({ PORT: '0', DATABASE_URL: url, TASKLANE_LOG_LEVEL: 'fatal' });
  assert.equal(lost.code, 1);
  assert.match(lost.stderr, /^tasklane: .*nowhere.* does not exist$/m);
});

test('several servers on one database know the same keys and tasks', async (t) => {
  const { start } = await ownDatabase(t);
  const [a, b] = await Promise.all([start({ instance: 'a:1' }), start({ instance: 'b:2' })]);
  const key = await a.key('worker');
  const put = { queue: 'q', endpoint: '/v1/chat/completions', data: {} };
  await a.request('POST', '/v1/queue/register', put, { key });
  const { json } = await b.request('POST', '/v1/queue/put', put);
  const taken = await a.request('POST', '/v1/queue/take', { queues: ['q:0'], size: 1 }, { key });
  assert.equal(taken.json['q:0'][0].task_id, json.data);
  const exits = await Promise.all([a.stop(), b.stop()]);
  assert.deepEqual(
    exits.map((exit) => exit.code),
    [0, 0],
  );
});
