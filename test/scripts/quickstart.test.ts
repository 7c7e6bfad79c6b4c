import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import OpenAI from 'openai';
import { LONG } from '../support/long.ts';

const ROOT = join(import.meta.dirname, '..', '..');

describe('scripts/quickstart.sh', () => {
  let dataDir: string;
  const environment = (more: Record<string, string> = {}) => ({
    PATH: process.env.PATH,
    HOME: process.env.HOME,
    PORT: '0',
    TASKLANE_DATA_DIR: dataDir,
    ...more,
  });
  const start = (args: string[], env: Record<string, string> = {}) => {
    const child = spawn('sh', ['scripts/quickstart.sh', ...args], {
      cwd: ROOT,
      env: environment(env),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const killLeftover = () => child.kill();
    process.once('exit', killLeftover);
    child.once('exit', () => process.off('exit', killLeftover));
    return child;
  };
  const run = async (args: string[], env: Record<string, string> = {}) => {
    const child = start(args, env);
    const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')]);
    return { code, stdout, output: stdout + stderr };
  };

  before(async () => {
    dataDir = await mkdtemp(join(tmpdir(), 'tasklane-quickstart-'));
    // As root, Postgres runs as a user who must be able to enter the folder.
    await chmod(dataDir, 0o711);
  });
  after(() => rm(dataDir, { recursive: true, force: true }));

  test('--exit ends with 0 when every answer of the batch and beside it came back right', async () => {
    const { code, stdout, output } = await run(['--exit', '--lines', '200']);
    assert.equal(code, 0, output);
    assert.match(stdout, /upload +200 chat requests as JSONL, [\d,]+ bytes: file-/);
    assert.match(stdout, /validating\n.* in_progress +[■·]+ +\d+ of 200, .* completed +■+ +200 of 200, /s);
    assert.match(stdout, /results +200 of 200 answers right/);
    assert.match(stdout, /usage +[1-9][\d,]+ tokens read, [1-9][\d,]+ tokens written/);
    assert.match(stdout, /live +(\d+) of \1 questions at level 0 right/);
    assert.match(stdout, /All \d+ answers came back and were right/);
    for (const strategy of ['fifo', 'round_robin', 'active_passive', 'sequential'])
      assert.ok(stdout.includes(strategy));
    assert.ok(!existsSync(join(dataDir, 'server.json')), 'the server has ended');
  });

  test('leaves everything running until Ctrl-C, tells how to use it, and says so to a second one', async () => {
    const child = start(['--lines', '20']);
    let stdout = '';
    for await (const piece of child.stdout.setEncoding('utf8').iterator({ destroyOnReturn: false })) {
      stdout += piece;
      if (stdout.includes('read on')) break;
    }
    assert.match(stdout, /All \d+ answers came back and were right/, await output(child, stdout));
    const { host, port } = new URL(/server +(http:\/\/[^,]+),/.exec(stdout)?.[1] as string);
    assert.equal((await fetch(`http://${host}/health`)).status, 200);

    const apiKey = (await readFile(join(dataDir, 'admin.key'), 'utf8')).trim();
    const openai = new OpenAI({ baseURL: `http://${host}/v1`, apiKey });
    const { data: batches } = await openai.batches.list();
    assert.deepEqual(
      batches.map(({ status, request_counts }) => [status, request_counts]),
      [20, 200].map((total) => ['completed', { total, completed: total, failed: 0 }]),
    );
    const answers = await (await openai.files.content(batches[0]?.output_file_id as string)).text();
    assert.equal(
      new Set(
        answers
          .trimEnd()
          .split('\n')
          .map((line) => JSON.parse(line).custom_id),
      ).size,
      20,
    );

    const printed = /\n {2}export OPENAI_BASE_URL=.*(?=\n {2}psql )/s.exec(stdout)?.[0] as string;
    const commands = printed
      .split('\n')
      .filter((line) => line.startsWith('  '))
      .join('\n');
    const followed = await promisify(execFile)('bash', ['-ec', commands], { cwd: dataDir });
    assert.match(followed.stdout, /event:line\n.*"custom_id":"a".*has 6 words.*\n\nevent:end\n.*"status":"completed"/);
    assert.match(followed.stdout, /event:completion\n.*has 6 words/);
    assert.match(followed.stdout, /"queue":"documents"/);

    const beside = await run(['--exit']);
    assert.equal(beside.code, 1);
    assert.match(beside.output, /data directory .* is in use by another Tasklane server/);
    const onPort = await run(['--exit'], { PORT: port });
    assert.equal(onPort.code, 1);
    assert.match(onPort.output, /Port \d+ is taken|already runs here/);

    child.stdout.resume();
    const ended = once(child, 'exit');
    child.kill('SIGINT');
    assert.deepEqual(await ended, [0, null]);
    await assert.rejects(fetch(`http://${host}/health`));
  });

  describe('with a model server', () => {
    let model: Server;
    let reply: (stream: boolean) => { type: string; body: string };
    before(async () => {
      model = createServer(async (req, res) => {
        const { type, body } = reply(JSON.parse(await text(req)).stream === true);
        res.writeHead(200, { 'Content-Type': type }).end(body);
      });
      model.listen(0, '127.0.0.1');
      await once(model, 'listening');
    });
    after(() => {
      model.close();
      model.closeAllConnections();
    });
    const env = () => ({ OPENAI_BASE_URL: `http://127.0.0.1:${(model.address() as AddressInfo).port}/v1` });

    test('--exit ends with 0 when its answers are chat completions', LONG, async () => {
      reply = (stream) =>
        stream
          ? {
              type: 'text/event-stream',
              body: `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: 'Yes.' } }] })}\n\ndata: [DONE]\n\n`,
            }
          : {
              type: 'application/json',
              body: JSON.stringify({ choices: [{ index: 0, message: { role: 'assistant', content: 'Yes.' } }] }),
            };
      const { code, output } = await run(['--exit', '--lines', '5'], env());
      assert.equal(code, 0, output);
    });

    test('--exit ends with 1 and says what is wrong when they are not', async () => {
      reply = () => ({ type: 'text/html', body: '<h1>It works!</h1>' });
      const { code, stdout, output } = await run(['--exit', '--lines', '5'], env());
      assert.equal(code, 1, output);
      assert.match(stdout, /results +0 of 5 answers right/);
      assert.match(stdout, /Missing or wrong:\n.*no chat completion came back/s);
    });
  });
});

async function output(child: ReturnType<typeof spawn>, stdout: string): Promise<string> {
  return child.exitCode === null ? stdout : stdout + (await text(child.stderr as NodeJS.ReadableStream));
}
