import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { commandExecutor } from '../../../client/executors/command.ts';
import { answered, recorded, work } from './support.ts';

const shell = (script: string, concurrency = 4) =>
  commandExecutor({ enabled: true, command: ['sh', '-c', script], concurrency });
const isAlive = (pid: number) => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};
const until = async (is: () => boolean) => {
  while (!is()) await sleep(10);
};

describe('a command', { concurrency: true }, () => {
  test('that does not end in time is ended, and its task tried again', async () => {
    const executor = commandExecutor({ enabled: true, command: ['sleep', '60'], timeoutSeconds: 0.1 });
    assert.deepEqual((await work(executor)).later, { reason: 'the command did not end within 0.1 seconds' });
    await executor.close?.();
  });

  test('is off unless it is enabled', () => {
    // biome-ignore lint/suspicious/noExplicitAny: what TypeScript would refuse
    const make = (options: any) => () => commandExecutor(options);
    assert.throws(make({ command: ['cat'] }), /the executor command is off: set enabled to true/);
    assert.throws(make({ enabled: false, command: ['cat'] }), /is off/);
    assert.throws(make({ enabled: true, command: [] }), /name the program/);
  });

  test('gets the data on its input, and the JSON that it prints is the answer', async () => {
    const executor = commandExecutor({ enabled: true, command: ['cat'] });
    assert.deepEqual(answered(await work(executor, recorded({ data: { n: 1 } }))), { status: 200, body: { n: 1 } });
  });

  test('is given its arguments as they are, without a shell', async () => {
    const executor = commandExecutor({ enabled: true, command: ['printf', '%s', '$HOME; `id`'] });
    assert.deepEqual(answered(await work(executor)).body, { text: '$HOME; `id`' });
  });

  test('finds the task in its environment, and not the worker’s key', async () => {
    const executor = shell(
      'echo "$TASKLANE_TASK_ID $TASKLANE_ATTEMPT $TASKLANE_QUEUE $TASKLANE_ENDPOINT $TASKLANE_API_KEY."',
    );
    const task = recorded({ attempt: 2 });
    const text = `${task.task.task_id} 2 chat /v1/chat/completions .\n`;
    assert.deepEqual(answered(await work(executor, task)).body, { text });
  });

  test('that ends with 75 wants to be tried again later', async () => {
    const { later } = await work(shell('echo "no model yet" >&2; exit 75'));
    assert.deepEqual(later, { reason: 'no model yet' });
  });

  test('that ends otherwise has failed, with the last of what it said', async () => {
    const { status, body } = answered(
      await work(shell('head -c 9000 /dev/zero | tr "\\0" x >&2; echo " the end" >&2; exit 3')),
    );
    assert.equal(status, 500);
    const { message, exit_code } = (body as { error: { message: string; exit_code: number } }).error;
    assert.equal(exit_code, 3);
    assert.match(message, /^x{3991} the end$/);
    assert.deepEqual(answered(await work(shell('exit 1'))).body, {
      error: { message: 'the command ended with 1', exit_code: 1 },
    });
  });

  test('that is killed by somebody is tried again', async () => {
    assert.deepEqual((await work(shell('kill -9 $$'))).later, { reason: 'the command was ended by SIGKILL' });
  });

  test('that can’t be run gives the task back, and check says so beforehand', async () => {
    const executor = commandExecutor({ enabled: true, command: ['no-such-program'] });
    await assert.rejects(async () => executor.check?.(), /there is no program no-such-program to run/);
    assert.match((await work(executor)).later?.reason as string, /can't be run/);
    await shell('').check?.();
    await commandExecutor({ enabled: true, command: [process.execPath] }).check?.();
  });

  test('shows its lines to the readers of a streaming task as it prints them', async () => {
    const task = recorded({ response_mode: 'streaming' });
    const { body } = answered(await work(shell('echo \'{"n": 1.0}\'; echo; echo two; printf three'), task));
    assert.deepEqual(task.events, [
      ['chunk', '{"n": 1.0}'],
      ['chunk', '"two"'],
      ['chunk', '"three"'],
    ]);
    assert.deepEqual(body, { text: '{"n": 1.0}\n\ntwo\nthree' });
  });

  test('that prints without end is ended, and the answer says so', async () => {
    const { status, body } = answered(await work(shell('exec yes'), recorded({}, { maxAnswerBytes: 1_000_000 })));
    assert.equal(status, 502);
    const { message, code } = (body as { error: Record<string, string> }).error;
    assert.equal(message, 'what the command printed is larger than 1000000 bytes');
    assert.equal(code, 'answer_too_large');
  });

  test('that does not read its input does no harm', async () => {
    const data = { text: 'x'.repeat(1_000_000) };
    assert.equal(answered(await work(shell('exec <&-; echo 1'), recorded({ data }))).status, 200);
  });

  test('is ended with all that it started when the task is taken away, and the task is left alone', async () => {
    const executor = shell('sleep 60 & echo $!; wait', 1);
    const task = recorded({ response_mode: 'streaming' });
    const end = work(executor, task);
    assert.equal(executor.remainingCapacity?.('chat'), 0);
    await task.nextEvent();
    const started = Number(task.events[0]?.[1]);
    assert.ok(isAlive(started));
    task.cancel();
    assert.deepEqual(await end, {});
    await until(() => !isAlive(started));
    assert.equal(executor.remainingCapacity?.('chat'), 1);
  });

  test('that pays no heed is killed after 5 seconds, and close waits for that', async () => {
    const executor = shell('trap "" TERM; echo $$; while :; do sleep 0.5; done');
    const task = recorded({ response_mode: 'streaming' });
    const end = work(executor, task);
    await task.nextEvent();
    const pid = Number(task.events[0]?.[1]);
    task.cancel();
    await executor.close?.();
    assert.ok(!isAlive(pid));
    assert.deepEqual(await end, {});
  });

  test('runs as often at once as concurrency says', () => {
    assert.equal(shell('', 7).remainingCapacity?.('chat'), 7);
    assert.throws(() => shell('', 0), /concurrency/);
  });
});
