import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createExecutor, executorNames, registerExecutor } from '../../../client/executors/registry.ts';
import { answered, json, listen, work } from './support.ts';

test('the built-in executors are known by name', async () => {
  assert.deepEqual(executorNames(), ['openai', 'ollama', 'http', 'command']);
  await using server = await listen((_, res) => json(res, 200, { ok: true }));
  for (const name of ['openai', 'ollama', 'http'] as const) {
    const executor = createExecutor(name, { upstreams: [{ url: server.url }] });
    assert.deepEqual(answered(await work(executor)).body, { ok: true });
  }
  const command = createExecutor('command', { enabled: true, command: ['echo', '{"ok":true}'] });
  assert.deepEqual(answered(await work(command)).body, { ok: true });
});

test('an unknown name is an error that says which is meant', () => {
  assert.throws(() => createExecutor('olama', {}), /there is no executor olama; did you mean ollama\?/);
});

test('an executor of one’s own is made by its name, with its options, and no name is given twice', async () => {
  registerExecutor('echo', ({ prefix }: { prefix: string }) => ({
    submit: (task) => task.markComplete({ status_code: 200, body: prefix + task.task.queue }),
  }));
  assert.ok(executorNames().includes('echo'));
  assert.deepEqual(answered(await work(createExecutor('echo', { prefix: '> ' }))).body, '> chat');
  assert.throws(
    () => registerExecutor('openai', () => ({ submit: () => undefined })),
    /there is an executor openai already/,
  );
});
