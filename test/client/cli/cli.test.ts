import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import pg from 'pg';
import { createClient, type Task } from '../../../client/client.ts';
import { createDatabase } from '../../support/database.ts';
import { until } from '../../support/server.ts';
import { answerTasks } from './answering.ts';
import { cli, MAIN, runHere as run } from './tasklane.ts';

const KEY = 'admin-key-of-the-tests';
const CHAT = '/v1/chat/completions';

describe('the command line', () => {
  let folder: string;
  let database: Awaited<ReturnType<typeof createDatabase>>;
  let server: ReturnType<ReturnType<typeof cli>['start']>;
  let worker: ReturnType<typeof answerTasks>;
  let client: ReturnType<typeof createClient>;
  let tasklane: ReturnType<typeof cli>;
  let url: string;

  /** Of a command that must succeed: what it prints. */
  const printed = async (line: string): Promise<string> => {
    const { code, stdout, stderr } = await run(line);
    assert.equal(code, 0, stderr);
    return stdout.trimEnd();
  };
  const json = async (line: string) => JSON.parse(await printed(`${line} --json`));
  const file = (name: string, text: string) => writeFile(join(folder, name), text);
  const put = (queue: string, ...data: Record<string, unknown>[]) =>
    client.puts(data.map((one) => ({ queue, endpoint: CHAT, data: one })));
  const inBash = (script: string) =>
    promisify(execFile)('bash', ['--norc', '-c', `tasklane() { "${process.execPath}" "${MAIN}" "$@"; }\n${script}`], {
      env: { ...process.env, TASKLANE_URL: url, TASKLANE_API_KEY: KEY },
    });

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tasklane-cli-'));
    database = await createDatabase();
    const settings = `database_url: "${database.url}", admin_key: ${KEY}, max_connections: 5, log_level: warn`;
    await file('serve.yaml', `serve: { ${settings} }`);
    server = cli(folder, {}).start('serve --config serve.yaml --port 0');
    url = (await server.shows(/^tasklane listening on (\S+)$/m))[1] as string;
    client = createClient({ baseUrl: url, apiKey: KEY });
    tasklane = cli(folder, { TASKLANE_URL: url, TASKLANE_API_KEY: KEY });
    Object.assign(process.env, { TASKLANE_URL: url, TASKLANE_API_KEY: KEY });
    process.chdir(folder);
    process.setMaxListeners(0);
    const queues = {
      llama2: CHAT,
      codellama: '/api/generate',
      native: '/api/chat',
      nomic: '/v1/embeddings',
      idle: CHAT,
    };
    for (const [queue, endpoint] of Object.entries(queues)) await client.queues.register(queue, endpoint);
    worker = answerTasks(url, KEY, ['llama2:0', 'llama2:1', 'codellama:0', 'native:0', 'nomic:0']);
  });
  after(async () => {
    await worker?.stop();
    server?.kill('SIGTERM');
    assert.equal((await server?.ended)?.code, 0, 'serve ends well when it is told to');
    await database?.drop();
    process.chdir(import.meta.dirname);
    await rm(folder, { recursive: true });
  });

  it('runs the commands of ollama-queue as they are written', async () => {
    const id = await printed('submit chat --model llama2 --messages "user:Hello, how are you?" --priority high');
    const chat = await client.get(id);
    assert.deepEqual([chat.data.messages, chat.priority], [[{ role: 'user', content: 'Hello, how are you?' }], 10]);
    const other = await printed('submit generate --model codellama --prompt "Write a Go function to sort an array"');
    assert.equal((await client.get(other)).data.prompt, 'Write a Go function to sort an array');
    assert.match(await printed('list'), new RegExp(`^ID .*\n${other} [\\s\\S]*\nTotal: \\d+ tasks`));
    assert.match(await printed('status'), /^Queue statistics\nLANE .*[\s\S]*llama2:0 [\s\S]*Workers\n/);
    assert.match(await printed(`status ${id}`), /Status: +(waiting|running|succeeded)\n/);
    const [waiting] = await put('idle', {});
    assert.equal(await printed(`priority ${waiting} high`), `Task ${waiting} priority updated to high (10)`);
    assert.equal(await printed(`cancel ${waiting}`), `${waiting} cancelled`);
    const { task_id, ...rest } = JSON.parse(await printed('submit embed --model nomic --input x --output json'));
    assert.deepEqual(rest, { status: 'submitted', type: 'embed', model: 'nomic' });
    assert.equal((await client.get(task_id)).data.input, 'x');
  });

  describe('submit', () => {
    it('prints the answer alone with --wait, and all of it with --json', async () => {
      const line = 'submit chat --model llama2 --messages user:hi --wait';
      assert.deepEqual(await tasklane.run(line), { code: 0, stdout: 'You said: hi\n', stderr: '' });
      const { task_id, status_code, body } = await json(line);
      assert.deepEqual([status_code, body.choices[0].message.content], [200, 'You said: hi']);
      assert.match(task_id, /^TASK-/);
      assert.equal(await printed('submit embed --model nomic --input ab --input abc --wait'), '[[2],[3]]');
    });

    it('waits for longer than a connection may by another way', async () => {
      assert.equal(await printed('submit chat --model llama2 --messages user:hi --wait --timeout 700'), 'You said: hi');
    });

    it('fails with the answer of a worker that failed, on stderr', async () => {
      const { code, stdout, stderr } = await run('submit chat --model llama2 --messages user:fail --wait');
      assert.deepEqual([code, stdout], [1, '']);
      assert.match(stderr, /^tasklane: the worker answered 500: out of memory \(TASK-\S+\)\n$/);
    });

    it('reads texts from stdin and from files', async () => {
      await file('question.txt', 'of a file, of course\n');
      const line = 'submit chat --model llama2 --messages system:@question.txt --messages - --wait';
      assert.equal((await tasklane.run(line, { input: 'of stdin\n' })).stdout, 'You said: of stdin\n');
      const [task] = (await client.list({ queue: 'llama2', limit: 1 }).page()).data;
      assert.deepEqual((task as Task).data.messages, [
        { role: 'system', content: 'of a file, of course' },
        { role: 'user', content: 'of stdin' },
      ]);
    });

    it("goes to the queue's endpoint, else to the first that has a route for the model", async () => {
      const line = 'submit chat --messages user:a --wait --model';
      assert.equal(await printed(`${line} x --queue native`), 'You said: a');
      assert.equal(await printed(`${line} native`), 'You said: a');
      const { code, stderr } = await run(`${line} unknown`);
      assert.equal(code, 2);
      assert.match(stderr, /^tasklane: no route for model unknown at [\s\S]*tasklane queues register/);
    });

    it('takes what is not said from tasklane.yaml', async () => {
      await file(
        'submit.yaml',
        `submit: { model: m, queue: idle, endpoint: ${CHAT}, level: 3, priority: low, system: Be brief., timeout_seconds: 77, max_attempts: 1 }`,
      );
      const shown = async (flags: string) => {
        const id = await printed(`submit chat --messages user:a --config submit.yaml ${flags}`);
        const { queue, level, priority, data, expire_time, start_time } = await client.get(id);
        return [queue, level, priority, data, (expire_time - start_time) / 1000];
      };
      const data = (system: string) => ({
        model: 'm',
        messages: [
          { role: 'system', content: system },
          { role: 'user', content: 'a' },
        ],
      });
      assert.deepEqual(await shown(''), ['idle', 3, 1, data('Be brief.'), 77]);
      assert.deepEqual(await shown('--level 4 --priority 9 --system No --timeout 88'), ['idle', 4, 9, data('No'), 88]);
      const taken = await client.request<Record<string, { task_id: string; attempt: number }[]>>(
        'POST',
        '/v1/queue/take',
        {
          body: { queues: ['idle:3'], size: 1 },
        },
      );
      const [{ task_id, attempt }] = taken['idle:3'] as [{ task_id: string; attempt: number }];
      await client.request('POST', `/v1/queue/${task_id}/release`, { body: { attempt } });
      assert.equal((await client.get(task_id)).status, 'dead', 'after max_attempts');
    });

    it('says that time is over, and that somebody pressed Ctrl-C, by its exit code', async () => {
      const line = 'submit chat --model idle --messages user:wait --wait';
      assert.equal((await tasklane.run(`${line} --timeout 1`)).code, 124);
      const waits = tasklane.terminal(line);
      await until(async () => {
        const { data } = await client.list({ queue: 'idle', limit: 1 }).page();
        return data[0]?.response_mode === 'blocking' && data[0].status === 'waiting';
      });
      waits.type('\u0003');
      assert.equal((await waits.ended).code, 130);
    });

    it('prints a stream as it comes', async () => {
      const streams = tasklane.terminal('submit chat --model llama2 --messages "user:hold on" --stream');
      assert.doesNotMatch(await streams.shows(/You said: /), /hold on/);
      worker.letGo();
      assert.deepEqual(await streams.ended, { code: 0, screen: 'You said: hold on\r\n' });
      const lines = (await printed('submit chat --model llama2 --messages user:a --stream --json')).split('\n');
      assert.deepEqual(
        lines.map((one) => JSON.parse(one).type),
        ['progress', 'progress', 'completion'],
      );
    });
  });

  describe('submit batch', () => {
    const lines = (...texts: string[]) =>
      texts
        .map((content, index) => {
          const body = { model: 'llama2', messages: [{ role: 'user', content }] };
          return `${JSON.stringify({ custom_id: `line-${index}`, method: 'POST', url: CHAT, body })}\n`;
        })
        .join('');
    const customIds = (text: string) =>
      text
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line).custom_id);

    it('shows a bar with rate and ETA on a terminal, and ends well when every line succeeded', async () => {
      await file('good.jsonl', lines('a', 'b', 'c'));
      const { code, screen } = await tasklane.terminal('submit batch --file good.jsonl --wait --output out.jsonl')
        .ended;
      assert.equal(code, 0, screen);
      assert.match(screen, /█+ +100% {2}3\/3 {2}[\d.]+\/s {2}ETA \S+/);
      assert.match(screen, /BATCH-\S+ completed: 3 of 3 succeeded in /);
      assert.deepEqual(customIds(await readFile(join(folder, 'out.jsonl'), 'utf8')), ['line-0', 'line-1', 'line-2']);
    });

    it('ends with 1 when a line failed, and writes down which', async () => {
      await file('bad.jsonl', lines('a', 'fail'));
      const { code, stdout, stderr } = await tasklane.run(
        'submit batch --file bad.jsonl --wait --output - --errors errors.jsonl',
      );
      assert.equal(code, 1);
      assert.match(stderr, /^tasklane: BATCH-\S+ completed: 1 of 2 succeeded in .*\n.*tasklane batches retry BATCH-/);
      assert.deepEqual(customIds(stdout), ['line-0']);
      assert.deepEqual(customIds(await readFile(join(folder, 'errors.jsonl'), 'utf8')), ['line-1']);
      const [, id] = /(BATCH-\S+) completed/.exec(stderr) ?? [];
      assert.equal((await tasklane.run(`batches download ${id}`)).stdout, stdout);
      assert.match(await printed(`batches show ${id}`), /Lines: +2: 1 succeeded, 1 failed/);
      assert.equal((await run(`batches watch ${await printed(`batches retry ${id}`)}`)).code, 1);
      assert.match(await printed('batches'), new RegExp(`${id} +completed +1 +1 +2 `));
    });

    it('refuses a file that is none', async () => {
      await file('none.jsonl', 'nonsense');
      assert.equal((await run('submit batch --file none.jsonl')).code, 2);
      assert.equal((await run('submit batch --file no.jsonl')).stderr, 'tasklane: no.jsonl: there is no such file\n');
    });

    it("puts each of ollama-queue's items as a task", async () => {
      const messages = [{ role: 'user', content: 'one' }];
      const items = [
        { type: 'chat', model: 'llama2', priority: 'critical', system: 'Be brief.', messages },
        { type: 'generate', model: 'codellama', priority: 3, prompt: 'two' },
        { type: 'embed', model: 'nomic', input: 'four' },
      ];
      await file('items.json', JSON.stringify(items));
      assert.match(
        await printed('submit batch --file items.json --wait'),
        /^TASK-\S+ succeeded: You said: one\nTASK-\S+ succeeded: You said: two\nTASK-\S+ succeeded: \[\[4\]\]$/,
      );
      const input = items.map((item) => JSON.stringify(item)).join('\n');
      const { stdout } = await tasklane.run('submit batch --file -', { input });
      const tasks = await Promise.all(
        stdout
          .trimEnd()
          .split('\n')
          .map((id) => client.get(id)),
      );
      assert.deepEqual(
        tasks.map(({ queue, priority }) => `${queue} ${priority}`),
        ['llama2 15', 'codellama 3', 'nomic 5'],
      );
      assert.deepEqual(tasks[0]?.data.messages, [{ role: 'system', content: 'Be brief.' }, ...messages]);
    });
  });

  describe('on tasks', () => {
    it('lists them within the width of a terminal', async () => {
      await put('idle', { model: 'a-model-with-a-name-that-is-longer-than-there-is-room-for' });
      const { screen, code } = await tasklane.terminal('list --queue idle --status waiting').ended;
      assert.equal(code, 0);
      const rows = screen.split('\r\n');
      assert.match(rows[0] ?? '', /^ID +QUEUE +LEVEL +STATUS +MODEL +CREATED$/);
      assert.match(screen, /a-model-[^ ]*…/);
      for (const row of rows) assert.ok(row.length <= 80, row);
    });

    it('filters, pages and turns a list', async () => {
      await client.queues.register('pages', CHAT);
      const ids = await put('pages', { n: 0 }, { n: 1 }, { n: 2 });
      const listed = async (flags: string) => {
        const { data, has_more: more } = await json(`list --queue pages --level 0 ${flags}`);
        return [data.map(({ task_id }: { task_id: string }) => ids.indexOf(task_id)), more];
      };
      assert.deepEqual(await listed('--limit 3'), [[2, 1, 0], false]);
      assert.deepEqual(await listed('--limit 1 --offset 1 --order asc'), [[1], true]);
      assert.equal(await printed('list --queue pages --status dead'), 'No tasks found');
    });

    it('cancels those that can be, and fails for the others', async () => {
      const [one, two] = await put('idle', {}, {});
      const { code, stdout, stderr } = await run(`cancel ${one} TASK-none ${two}`);
      assert.deepEqual([code, stdout], [1, `${one} cancelled\n${two} cancelled\n`]);
      assert.match(stderr, /^tasklane: TASK-none: .*unknown task/);
    });

    it('gives dead ones a new life, and says of others what to do', async () => {
      await client.queues.register('fragile', CHAT, { max_attempts: 1 });
      const [one, two, three] = await put('fragile', {}, {}, {});
      const taken = await client.request<Record<string, { task_id: string }[]>>('POST', '/v1/queue/take', {
        body: { queues: ['fragile:0'], size: 3 },
      });
      for (const { task_id } of Object.values(taken).flat())
        await client.request('POST', `/v1/queue/${task_id}/release`, { body: {} });
      assert.match(await printed('dead --queue fragile'), new RegExp(`${three} [\\s\\S]*${one} `));
      const { code, stdout, stderr } = await run(`retry ${one} ${one}`);
      assert.deepEqual([code, stdout], [1, `${one} replayed\n`]);
      assert.equal(stderr, `tasklane: ${one}: is waiting: its turn will come\n`);
      assert.equal(await printed('dead replay --queue fragile --limit 1'), '1 replayed');
      assert.equal((await client.get(two as string)).status, 'waiting');
      await printed('dead purge --queue fragile');
      assert.deepEqual((await json('dead --queue fragile')).data, []);
    });

    it('follows events, a JSON line each', async () => {
      const follows = tasklane.start('events --queue idle --types submitted --json');
      let line: string | undefined;
      const seen = follows.shows(/.*"type":"submitted".*\n/).then(([first]) => {
        line = first;
      });
      // Nothing tells that the feed is open, so tasks are put until one is seen.
      await until(async () => {
        await put('idle', {});
        return line;
      });
      await seen;
      assert.deepEqual([JSON.parse(line ?? '').queue, JSON.parse(line ?? '').status], ['idle', 'waiting']);
      follows.kill('SIGKILL');
      await follows.ended;
    });
  });

  describe('set up', () => {
    it('registers, changes, pauses, clears and removes a queue', async () => {
      await printed(`queues register made --endpoint ${CHAT} --max-attempts 5 --max-depth 9`);
      const made = await json('queues set made --lease 33 --max-depth none --retry-factor 3 --no-retry-jitter');
      const { lease_seconds, max_attempts, max_depth, retry } = made;
      assert.deepEqual([lease_seconds, max_attempts, max_depth, retry.factor, retry.jitter], [33, 5, null, 3, false]);
      assert.equal(await printed('queues pause made'), 'made is paused');
      assert.match(await printed('queues'), /^made .*\(paused\)/m);
      await put('made', {});
      assert.equal(await printed('queues clear made:0'), '1 cancelled');
      await printed('queues remove made');
      assert.equal((await run('queues show made')).code, 4);
    });

    it('routes a model', async () => {
      await printed('channels add --model gpt-mini --queue llama2');
      const [channel] = await json('channels');
      assert.deepEqual([channel.model, channel.endpoint, channel.queue], ['gpt-mini', CHAT, 'llama2']);
      await printed(`channels remove ${channel.id}`);
      assert.deepEqual(await client.channels.list(), []);
    });

    it('makes a key, prints its secret alone, and revokes it', async () => {
      const secret = await printed('keys create --role worker --name gpu-1');
      const own = (line: string) => run(`${line} --api-key ${secret}`);
      const refused = await own('keys');
      assert.equal(refused.code, 1);
      assert.match(refused.stderr, /a worker key may not do this[\s\S]*tasklane keys create --role/);
      const id = (await client.keys.list()).find(({ name }) => name === 'gpu-1')?.id;
      assert.equal(await printed(`keys revoke ${id}`), `${id} revoked`);
      assert.match((await own('queues')).stderr, /not known\n {2}set TASKLANE_API_KEY/);
    });

    it("takes ollama-queue's cron commands", async () => {
      await printed(
        'cron add --name digest --cron "0 7 * * 1-5" --type chat --model llama2 --priority high --prompt "What is new?" --disabled',
      );
      const [schedule] = (await client.schedules.list().page()).data;
      const { id = '', task } = schedule ?? {};
      assert.deepEqual([task?.priority, task?.data.messages], ['high', [{ role: 'user', content: 'What is new?' }]]);
      const { cron, enabled, ...changed } = await json(`cron update ${id} --prompt "And else?" --cron "0 8 * * *"`);
      assert.deepEqual([cron, enabled, changed.task.priority], ['0 8 * * *', false, 'high']);
      assert.equal(changed.task.data.messages[0].content, 'And else?');
      assert.match(await printed('cron'), /^ID +NAME +CRON +ENABLED[\s\S]*digest +0 8 \* \* \* +no/);
      assert.match(await printed('cron test "0 0 1 1 *" --count 2'), /^20\d\d-01-01T00:00:00.000Z .*\n20\d\d-01-01T00/);
      assert.equal(await printed(`cron remove ${id}`), `${id} removed`);
    });
  });

  describe('looks', () => {
    it('shows top until q is pressed, and leaves the terminal as it was', async () => {
      const top = tasklane.terminal('top');
      await top.shows(/LANE [\s\S]*llama2:0/);
      top.type('q');
      const { code, screen } = await top.ended;
      assert.equal(code, 0);
      assert.ok(screen.lastIndexOf('\u001b[?25h') > screen.lastIndexOf('\u001b[?25l'), 'the cursor is there again');
      assert.match(await printed('top --once'), /^tasklane top [\s\S]*LANE +WAITING/);
    });

    it('examines server and database, and says what to do', async () => {
      const psql = new pg.Client({ connectionString: database.url });
      await psql.connect();
      await psql.query(`alter database ${new URL(database.url).pathname.slice(1)} set synchronous_commit = off`);
      await psql.end();
      const { code, stdout, stderr } = await run(`doctor --database-url ${database.url} --json`);
      const checks = JSON.parse(stdout) as { name: string; state: string; advice?: string }[];
      const states = Object.fromEntries(checks.map(({ name, state }) => [name, state]));
      const good = [
        'server',
        'clock',
        'version',
        'key',
        'postgres',
        'notify',
        'database clock',
        'migrations',
        'partitions',
      ];
      for (const name of good) assert.equal(states[name], 'ok', name);
      assert.equal(states.synchronous_commit, 'problem');
      const advice = checks.find(({ name }) => name === 'synchronous_commit')?.advice;
      assert.match(advice ?? '', /alter system set synchronous_commit = on/);
      assert.equal(code, 1);
      assert.match(stderr, /^tasklane: .*problem.*synchronous_commit/);
      const away = await run('doctor --url http://127.0.0.1:9');
      assert.match(away.stdout, /^problem +server: no answer[\s\S]*tasklane serve/);
      assert.match(away.stderr, /tasklane doctor --database-url/);
    });
  });

  it('prints help with examples and exit codes', async () => {
    assert.match(await printed('--help'), /Tasks:\n +submit [\s\S]*Exit codes:\n/);
    assert.match(await printed('help submit chat'), /Examples:\n +tasklane submit chat --model/);
  });

  it('says in a line what is wrong, and a script can tell by the exit code', async () => {
    const away = await tasklane.run('list --url http://127.0.0.1:9');
    assert.deepEqual([away.code, away.stdout], [5, '']);
    assert.match(
      away.stderr,
      /^tasklane: no answer from http:\/\/127\.0\.0\.1:9: .*\n {2}start a server with: tasklane serve/,
    );
    assert.equal((await tasklane.run('list --status sleeping')).code, 2);
    assert.equal((await run('list --url nonsense')).code, 2);
    assert.equal((await run('status TASK-none')).code, 4);
    const unknown = await run('queues lst');
    assert.deepEqual([unknown.code, unknown.stderr], [2, "tasklane: unknown command 'lst'\n(Did you mean list?)\n"]);
  });

  it('is quiet when its reader has seen enough', async () => {
    await put('idle', ...Array.from({ length: 200 }, () => ({ text: 'x'.repeat(1000) })));
    const { stdout, stderr } = await inBash('set -o pipefail; tasklane list --json --limit 500 | head -1');
    assert.deepEqual([stdout, stderr], ['{\n', '']);
  });

  it('completes commands, flags, values and names in bash', async () => {
    const { stdout } = await inBash(`
      source <(tasklane completion bash)
      complete_line() { COMP_LINE="$1"; COMP_POINT=\${#1}; COMPREPLY=(); _tasklane; echo "\${COMPREPLY[*]}"; }
      complete_line "tasklane submit chat --pri"
      complete_line "tasklane submit chat --priority "
      complete_line "tasklane queues show nom"
      complete_line "tasklane worker --queues nomic:"`);
    assert.deepEqual(stdout.split('\n'), ['--priority', 'low normal high critical', 'nomic', '0', '']);
  });
});
