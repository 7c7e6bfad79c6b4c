import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import { account, type Evidence } from '../../scripts/chaos/account.ts';
import { LONG } from '../support/long.ts';

const SCRIPT = join(import.meta.dirname, '..', '..', 'scripts/chaos/main.ts');

/** Runs the script, which must find everything in order; gives what it printed, and the figures in it. */
async function chaos(...args: string[]) {
  const { stdout } = await promisify(execFile)(process.execPath, [SCRIPT, ...args]).catch(
    (error: Error & { stdout: string }) => assert.fail(`${error.message}\n${error.stdout}`),
  );
  const figure = (name: string) =>
    Number(new RegExp(`^${name} +([\\d,]+)$`, 'm').exec(stdout)?.[1]?.replaceAll(',', ''));
  assert.match(stdout, /^Every task is accounted for\.$/m);
  return { stdout, figure };
}

test(
  'under kill -9 of workers, servers and Postgres every acknowledged task ends once, with its own answer',
  LONG,
  async () => {
    const { stdout, figure } = await chaos('--seconds', '6', '--seed', '7');
    for (const kind of ['worker', 'server', 'Postgres']) assert.ok(figure(`kill -9 of a ${kind}`) >= 1, stdout);
    for (const name of ['tasks acknowledged', 'succeeded', 'second runs', 'clients and callbacks told'])
      assert.ok(figure(name) >= 1, `${name}\n${stdout}`);
  },
);

test('while the network before Postgres swallows, delays and cuts, no request hangs and nothing acknowledged is lost', async () => {
  const { stdout, figure } = await chaos('--postgres-proxy', '--seconds', '6', '--seed', '7');
  for (const name of ['tasks acknowledged', 'succeeded', 'half of the connections fall silent'])
    assert.ok(figure(name) >= 1, `${name}\n${stdout}`);
});

describe('the accounting', () => {
  const good: Evidence = {
    found: [
      { taskId: 'A', marker: 'a', status: 'succeeded', attempt: 2, results: 1, body: '{"echo":"a"}' },
      { taskId: 'B', marker: 'b', status: 'cancelled', attempt: 0, results: 1, body: null },
      { taskId: 'C', marker: 'c', status: 'dead', attempt: 1, results: 1, body: null },
    ],
    acknowledged: new Map([
      ['A', 'a'],
      ['B', 'b'],
    ]),
    keyed: new Map([['a', ['A', 'A']]]),
    cancelled: ['B'],
    told: [{ taskId: 'A', marker: 'a', body: '{"echo":"a"}' }],
    takes: [
      { taskId: 'A', attempt: 1 },
      { taskId: 'A', attempt: 2 },
    ],
    answers: [
      { taskId: 'A', attempt: 1, accepted: false },
      { taskId: 'A', attempt: 2, accepted: true },
    ],
    peaks: [{ queue: 'q', seen: 1, allowed: 1 }],
  };
  const [a, b, c] = good.found as [Evidence['found'][0], Evidence['found'][0], Evidence['found'][0]];

  test('finds nothing wrong where nothing is, and counts', () => {
    const { problems, figures } = account(good);
    assert.deepEqual(problems, []);
    assert.equal(figures['second runs'], 1);
    assert.equal(figures['put without an acknowledgement'], 1);
    assert.equal(figures['answers refused as stale'], 1);
  });

  const WRONG: Record<string, [Partial<Evidence>, RegExp]> = {
    'a task that is gone': [{ found: [b, c] }, /A was acknowledged and is gone/],
    'a task that never ends': [{ found: [{ ...a, status: 'running' }, b, c] }, /A is running for ever/],
    'a task that ended twice': [{ found: [{ ...a, results: 2 }, b, c] }, /A ended 2 times/],
    "a task with another's data": [{ found: [{ ...a, marker: 'x' }, b, c] }, /A has the data of another put/],
    'an answer of another task': [{ found: [{ ...a, body: '{"echo":"b"}' }, b, c] }, /A has the answer of another/],
    'a key with two ids': [{ keyed: new Map([['a', ['A', 'C']]]) }, /the key a made 2 tasks/],
    'a key with two tasks': [{ found: [a, b, { ...c, marker: 'a' }] }, /the key a made 2 tasks/],
    'a cancelled task that ran': [{ cancelled: ['A'] }, /A was cancelled and is succeeded/],
    'a client that was told wrong': [
      { told: [{ taskId: 'A', marker: 'a', body: '{"echo":"b"}' }] },
      /another answer than its own/,
    ],
    'an attempt handed out twice': [
      { takes: [...good.takes, { taskId: 'A', attempt: 2 }] },
      /attempt 2 was handed out twice/,
    ],
    'a stale answer that counted': [
      { answers: [{ taskId: 'A', attempt: 1, accepted: true }] },
      /attempt 1 was accepted/,
    ],
    'too many at once': [{ peaks: [{ queue: 'q', seen: 2, allowed: 1 }] }, /2 tasks of q ran at once/],
  };
  for (const [what, [change, message]] of Object.entries(WRONG))
    test(`finds ${what}`, () => {
      assert.match(account({ ...good, ...change }).problems.join('\n'), message);
    });
});
