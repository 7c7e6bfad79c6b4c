import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { loadConfig, setServerEnvironment } from '../../../client/cli/config.ts';
import { SERVER_KEYS } from '../../../client/cli/config-file.ts';
import type { Failure } from '../../../client/cli/failure.ts';
import { loadConfig as loadServerConfig } from '../../../server/config.ts';

const VARIABLES = [
  'TASKLANE_URL',
  'TASKLANE_API_KEY',
  'XDG_CONFIG_HOME',
  'HOME',
  'A_KEY',
  'A_NUMBER',
  'TASKLANE_DATA_DIR',
  ...Object.values(SERVER_KEYS),
];

describe('the configuration of the command line', () => {
  const kept = new Map(VARIABLES.map((name) => [name, process.env[name]]));
  let folder: string;
  let path: string;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tasklane-config-'));
    path = join(folder, 'tasklane.yaml');
    for (const name of VARIABLES) delete process.env[name];
    process.env.HOME = folder;
  });
  after(async () => {
    for (const [name, value] of kept) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
    await rm(folder, { recursive: true });
  });

  const load = async (text: string, flags = {}) => {
    await writeFile(path, text);
    return loadConfig({ config: path, ...flags });
  };
  const refusal = async (text: string): Promise<string> => {
    const error = await load(text).catch((thrown: Failure) => thrown);
    assert.ok('exitCode' in error && error.exitCode === 2, 'it is refused, as a fault of usage');
    return error.message.replace(path, 'FILE');
  };

  it('takes a flag before the environment, the environment before the file, and the file before what is usual', async () => {
    assert.equal((await load('')).url, 'http://127.0.0.1:8080');
    assert.equal((await load('url: http://file')).url, 'http://file');
    process.env.TASKLANE_URL = 'http://environment';
    process.env.TASKLANE_API_KEY = 'of the environment';
    const config = await load('url: http://file\napi_key: of the file');
    assert.deepEqual([config.url, config.api_key], ['http://environment', 'of the environment']);
    assert.equal((await load('url: http://file', { url: 'http://flag' })).url, 'http://flag');
    process.env.TASKLANE_URL = '';
    delete process.env.TASKLANE_API_KEY;
    assert.equal((await load('url: http://file')).url, 'http://file', 'an empty variable counts as unset');
    assert.equal((await load('api_key: of the file')).api_key, 'of the file');
  });

  it('fills in variables of the environment, and refuses one that is not set', async () => {
    process.env.A_KEY = 'sk-1';
    process.env.A_NUMBER = '7';
    const config = await load(`api_key: pre-\${A_KEY}\nsubmit:\n  level: \${A_NUMBER}`);
    assert.deepEqual([config.api_key, config.submit?.level], ['pre-sk-1', 7]);
    assert.equal(await refusal(`url: http://x\napi_key: \${NO_SUCH}`), 'FILE:2: NO_SUCH is not set');
  });

  it('refuses a key that it does not know, with its line and the closest one', async () => {
    assert.equal(
      await refusal('url: http://x\nworker:\n  prefech: 3'),
      'FILE:3: worker.prefech is not a key: did you mean prefetch?',
    );
    assert.equal(await refusal('api-key: x'), 'FILE:1: api-key is not a key: did you mean api_key?');
    assert.equal(
      await refusal('worker:\n  upstreams:\n    - url: http://x\n      apikey: y'),
      'FILE:4: worker.upstreams[0].apikey is not a key: did you mean api_key?',
    );
  });

  it('refuses a value of the wrong kind, and what is no YAML', async () => {
    assert.equal(await refusal('serve:\n  port: many'), 'FILE:2: serve.port must be a whole number, 0 to 65535');
    assert.equal(await refusal('worker:\n  queues: a:0'), 'FILE:2: worker.queues must be a list');
    assert.equal(await refusal('submit: 3'), 'FILE:1: submit must be a mapping of keys to values');
    assert.equal(
      await refusal('worker:\n  strategy: best'),
      'FILE:2: worker.strategy must be one of fifo, round_robin, active_passive, sequential',
    );
    assert.match(await refusal('url: [1'), /^FILE:1: /);
  });

  it('uses the key of a server with an embedded Postgres, of this machine alone', async () => {
    await writeFile(join(folder, 'admin.key'), 'sk-own\n');
    const file = `serve:\n  data_dir: ${folder}\n`;
    assert.equal((await load(file)).api_key, 'sk-own');
    assert.equal((await load(file, { url: 'http://localhost:9000' })).api_key, 'sk-own');
    assert.equal((await load(file, { url: 'http://example.com' })).api_key, undefined);
    assert.equal((await load(file, { url: 'http://127.0.0.1.example.com' })).api_key, undefined);
    assert.equal((await load(`${file}api_key: mine`)).api_key, 'mine');
  });

  it('is found in the usual places', async () => {
    await writeFile(path, 'url: http://from-xdg');
    process.env.XDG_CONFIG_HOME = join(folder, '..');
    assert.notEqual((await loadConfig({})).url, 'http://from-xdg');
    const { mkdir, rename } = await import('node:fs/promises');
    await mkdir(join(folder, '.config', 'tasklane'), { recursive: true });
    await rename(path, join(folder, '.config', 'tasklane', 'tasklane.yaml'));
    delete process.env.XDG_CONFIG_HOME;
    assert.equal((await loadConfig({})).url, 'http://from-xdg', 'in ~/.config');
    process.env.XDG_CONFIG_HOME = join(folder, '.config');
    process.env.HOME = '/nowhere';
    assert.equal((await loadConfig({})).url, 'http://from-xdg', 'in $XDG_CONFIG_HOME');
  });

  it('sets every setting of the server, but where the environment has it already', async () => {
    const values = {
      port: 8123,
      host: '0.0.0.0',
      database_url: 'postgres://file/db',
      direct_url: 'postgres://direct/db',
      data_dir: 'elsewhere',
      admin_key: 'a-key-of-the-file-itself',
      instance: '10.0.0.1:8123',
      log_level: 'warn',
      max_body_bytes: 2048,
      max_answer_bytes: 4096,
      max_connections: 7,
      database_seconds: 9,
      callback_allow: '10.0.0.0/8',
      forward_headers: 'x-team',
      idempotency_seconds: 60,
      event_retention_seconds: 120,
      batch_max_bytes: 4096,
      batch_max_lines: 10,
      file_max_bytes: 8192,
      file_quota_bytes: 16_384,
    };
    const lines = Object.entries(values).map(([key, value]) => `  ${key}: ${JSON.stringify(value)}`);
    const config = await load(`serve:\n${lines.join('\n')}`);
    process.env.TASKLANE_LOG_LEVEL = 'error';
    setServerEnvironment(config, { port: 8124 });
    const settings = Object.fromEntries(Object.values(SERVER_KEYS).map((name) => [name, process.env[name]]));
    const server = loadServerConfig(settings) as Record<string, unknown>;
    for (const [key, value] of Object.entries({
      ...values,
      port: 8124,
      log_level: 'error',
      callback_allow: ['10.0.0.0/8'],
      forward_headers: ['x-team'],
    })) {
      assert.deepEqual(server[SERVER_KEYS[key as keyof typeof SERVER_KEYS]], value, key);
    }
    assert.deepEqual(Object.keys(server).toSorted(), Object.values(SERVER_KEYS).toSorted(), 'the server has no other');
  });
});
