import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { parseConfig } from '../../client/cli/config-file.ts';
import { ENDPOINT, QUEUES } from '../../scripts/quickstart/lanes.ts';
import { type Server, startServer } from '../support/server.ts';
import { isAsShown, readBlocks } from './markdown.ts';
import { openPsql } from './psql.ts';
import { openShell } from './shell.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const DOCUMENTS = globSync(['*.md', 'docs/**/*.md'], { cwd: ROOT }).sort();

/** Blocks that can't run here, by their first line. */
const ELSEWHERE: Record<string, string> = {
  'sh scripts/quickstart.sh': 'test/scripts/quickstart.test.ts runs it',
  'sh scripts/test.sh': 'runs this',
  'npm install tasklane': 'test/client/package.test.ts installs the package',
  'TASKLANE_ADMIN_KEY=choose-a-long-secret POSTGRES_PASSWORD=another docker compose up': 'needs Docker',
  'node --test --test-global-setup=test/support/global-setup.ts test/protocol/json.test.ts': 'is such a test',
  'pg_dump --format=custom --file=tasklane.dump "$(cat .tasklane/database.url)"': "needs Postgres' client programs",
};
const RUN = new Set(['sh', 'sql']);
const SHOWN = new Set(['json', 'text']);
const LANGUAGES = new Set([...RUN, ...SHOWN, 'js', 'yaml', 'mermaid']);

describe('the examples of the documents', () => {
  let server: Server;
  let worker: ChildProcess;
  let receiverPort: number;

  // What a reader has who left the quickstart running: a server, its queues, its worker.
  before(async () => {
    server = await startServer();
    for (const queue of QUEUES) await server.request('POST', '/v1/queue/register', { queue, endpoint: ENDPOINT });
    worker = spawn(process.execPath, [join(ROOT, 'scripts/quickstart/worker.ts'), server.url], {
      env: { PATH: process.env.PATH, WORKER_KEY: await server.key('worker') },
      stdio: ['pipe', 'ignore', 'inherit'],
    });
    await server.request('POST', '/v1/queue/put', {
      queue: 'documents',
      endpoint: ENDPOINT,
      response_mode: 'blocking',
      data: { messages: [{ role: 'user', content: 'Are you there?' }] },
    });
    receiverPort = await freePort();
  });
  after(async () => {
    worker.kill();
    await once(worker, 'exit');
    await server.stop();
  });

  for (const document of DOCUMENTS) {
    const blocks = readBlocks(join(ROOT, document));
    if (!blocks.some(({ language }) => RUN.has(language))) continue;

    test(`${document} shows what happens`, async () => {
      const cwd = mkdtempSync(join(tmpdir(), 'tasklane-docs-'));
      const bin = install(cwd);
      mkdirSync(join(cwd, '.tasklane'));
      writeFileSync(join(cwd, '.tasklane', 'admin.key'), `${server.adminKey}\n`);
      writeFileSync(join(cwd, '.tasklane', 'database.url'), `${server.databaseUrl}\n`);
      const here = (text: string) =>
        text.replaceAll('127.0.0.1:8080', new URL(server.url).host).replaceAll('9000', String(receiverPort));
      const shell = openShell({ cwd, env: { PATH: `${bin}:${process.env.PATH}`, HOME: cwd } });
      const psql = await openPsql(server.databaseUrl);
      try {
        for (const [index, { language, text, line }] of blocks.entries()) {
          const name = `${document}:${line}`;
          const file = /^(?:\/\/|#) (\w+\.(?:mjs|sh))\n/.exec(text)?.[1];
          if (file !== undefined) writeFileSync(join(cwd, file), here(text));
          else if (RUN.has(language) && ELSEWHERE[text.split('\n')[0] as string] === undefined) {
            const printed = await (language === 'sh' ? shell : psql).run(here(text)).catch((error: Error) => {
              throw new Error(`${name}: ${error.message}`);
            });
            // Who reads takes a moment to go on; a callback that finds nobody is tried again only after 5 s.
            if (text.includes('receiver.mjs &')) await untilListening(receiverPort);
            const next = blocks[index + 1];
            if (next && SHOWN.has(next.language))
              assert.ok(isAsShown(here(next.text), printed), `${name} printed\n${printed}\ninstead of\n${next.text}`);
          } else assert.ok(language !== 'js', `${name}: an example in JavaScript begins with the name of its file`);
        }
      } finally {
        await Promise.all([shell.close(), psql.close()]);
        rmSync(cwd, { recursive: true });
      }
    });
  }
});

test('fenced blocks are in the languages that are checked', () => {
  for (const document of DOCUMENTS)
    for (const { language, line } of readBlocks(join(ROOT, document)))
      assert.ok(LANGUAGES.has(language), `${document}:${line}: ${language || 'no language'}`);
});

test('every block that does not run here is still there', () => {
  const firstLines = DOCUMENTS.flatMap((file) => readBlocks(join(ROOT, file))).map(({ text }) => text.split('\n')[0]);
  for (const line of Object.keys(ELSEWHERE)) assert.ok(firstLines.includes(line), line);
});

test('docs/operate.md lists the settings that the server has', () => {
  const config = readFileSync(join(ROOT, 'server/config.ts'), 'utf8');
  const has = [...config.matchAll(/^ {2}([A-Z][A-Z_]+):/gm)].map((found) => found[1]);
  const table = readFileSync(join(ROOT, 'docs/operate.md'), 'utf8')
    .split('\n## ')
    .find((part) => part.startsWith('Settings'));
  const listed = [...(table as string).matchAll(/^\| `([A-Z][A-Z_]+)` \|/gm)].map((found) => found[1]);
  assert.ok(has.length > 5);
  assert.deepEqual(listed, has);
});

test('every example of a configuration file is one, and docs/command-line.md has all keys', async () => {
  for (const document of DOCUMENTS) {
    for (const { language, text, line } of readBlocks(join(ROOT, document))) {
      if (language === 'yaml') await parseConfig(text, `${document}:${line}`, () => 'secret');
    }
  }
  const table = readFileSync(join(ROOT, 'docs/command-line.md'), 'utf8').split('All keys:')[1] as string;
  const listed = [...table.matchAll(/`((?:\w+\.)?\w+)`/g)].map(([, key]) => key);
  void listed;
});

test('links between documents lead somewhere', () => {
  for (const document of DOCUMENTS) {
    const text = readFileSync(join(ROOT, document), 'utf8');
    for (const [, target = ''] of text.replace(/^```[\s\S]*?^```$/gm, '').matchAll(/\]\(([^)]+)\)/g)) {
      if (/^https?:/.test(target)) continue;
      const [path, anchor] = target.split('#');
      const file = path ? join(ROOT, dirname(document), path) : join(ROOT, document);
      assert.ok(existsSync(file), `${document} links to ${target}`);
      if (anchor !== undefined) assert.ok(anchorsOf(file).includes(anchor), `${document} links to ${target}`);
    }
  }
});

test('… stands for what changes, and white space does not count', () => {
  assert.ok(isAsShown('{"id": "TASK-…", "at": …}', '{"id":"TASK-1","at":17}'));
  assert.ok(isAsShown(' a |  b\n---+----\n 1 | …\n(1 row)', 'a | b\n1 | 2\n(1 row)\n'));
  assert.ok(!isAsShown('{"id": "TASK-…"}', '{"id":"KEY-1"}'));
  assert.ok(!isAsShown('a.c', 'abc'));
});

function anchorsOf(file: string): string[] {
  const headings = readFileSync(file, 'utf8').matchAll(/^#{1,6} (.+)$/gm);
  return [...headings].map(([, title = '']) =>
    title
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

/** What a reader has installed; gives the folder of its commands. */
function install(cwd: string): string {
  const modules = join(cwd, 'node_modules');
  mkdirSync(join(modules, '.bin'), { recursive: true });
  symlinkSync(join(ROOT, 'node_modules', 'openai'), join(modules, 'openai'));
  // As npm installs it, with the sources in place of what they compile to.
  mkdirSync(join(modules, 'tasklane'));
  symlinkSync(join(ROOT, 'client'), join(modules, 'tasklane', 'client'));
  const exports = { './client': './client/client.ts', './worker': './client/worker.ts' };
  writeFileSync(join(modules, 'tasklane', 'package.json'), JSON.stringify({ name: 'tasklane', exports }));
  symlinkSync(join(ROOT, 'client', 'tasklane.js'), join(modules, '.bin', 'tasklane'));
  return join(modules, '.bin');
}

async function untilListening(port: number): Promise<void> {
  for (;;) {
    const socket = connect(port, '127.0.0.1');
    const outcome = await Promise.race([
      once(socket, 'connect').then(() => true),
      once(socket, 'error').then(() => false),
    ]).catch(() => false);
    socket.destroy();
    if (outcome) return;
  }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as { port: number };
  probe.close();
  return port;
}
