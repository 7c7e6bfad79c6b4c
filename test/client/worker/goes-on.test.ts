import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import fc from 'fast-check';
import { createClient } from '../../../client/client.ts';
import { createExecutor, createWorker } from '../../../client/worker.ts';
import { ANSWERS, MOOD_NAMES, type Mood, startMoody } from '../../../scripts/chaos/moody.ts';
import { startServer, until } from '../../support/server.ts';

const CHAT = '/v1/chat/completions';
/** Work must go on this soon after a model server answers again. */
const LONGEST_PAUSE_MS = 3000;
const RUNS = process.env.LONG_TESTS === '1' ? 20 : 2;

const server = await startServer();
const client = createClient({ baseUrl: server.url, apiKey: server.adminKey });
after(() => server.stop());
let queues = 0;

describe('a worker before model servers that misbehave', () => {
  const steps = fc.array(fc.record({ mood: fc.constantFrom(...MOOD_NAMES), ms: fc.integer({ min: 50, max: 900 }) }), {
    minLength: 3,
    maxLength: 6,
  });
  const lives = fc.array(steps, { minLength: 1, maxLength: 2 });

  test('goes on whenever one of them answers, and answers every task rightly in the end', {
    timeout: 600_000,
  }, async (t) => {
    await fc.assert(
      fc.asyncProperty(lives, fc.constantFrom<(number | 'auto')[]>(1, 4, 'auto'), async (each, concurrency) => {
        const queue = `moody${++queues}`;
        // What fails is tried until it goes well: how often is no matter here.
        const patient = { max_attempts: 100, retry: { initial_seconds: 0.05, max_seconds: 0.2 } };
        await client.queues.register(queue, CHAT, patient);
        let answeredAt = performance.now();
        const heard = () => {
          answeredAt = performance.now();
        };
        const upstreams = await Promise.all(each.map(() => startMoody({ onAnswer: heard })));
        const logged: string[] = [];
        const worker = createWorker({
          baseUrl: server.url,
          apiKey: server.adminKey,
          queues: [`${queue}:0`, `${queue}:1`],
          handleSignals: false,
          drainSeconds: 0,
          log: (line) => logged.push(line),
          executor: createExecutor('openai', {
            upstreams: upstreams.map(({ url }) => ({ url })),
            concurrency,
            timeoutSeconds: 0.5,
            log: (line) => logged.push(line),
          }),
        });
        await worker.start();
        const data = (content: string) => ({ model: 'm', messages: [{ role: 'user', content }] });
        const ids = new Map<string, string>();
        let over = false;
        const feed = (async () => {
          for (let n = 0; !over; n++) {
            const words = `${queue} ${n}`;
            ids.set(await client.put({ queue, endpoint: CHAT, level: n % 2, data: data(words) }), words);
            await pause(20);
          }
        })();

        // While one answers, and for as long as that lasts, a pause in the answers has an end.
        let healthySince: number | undefined;
        let longest = 0;
        const watch = setInterval(() => {
          const now = performance.now();
          if (upstreams.some(({ mood }) => ANSWERS.has(mood))) healthySince ??= now;
          else healthySince = undefined;
          if (healthySince !== undefined) longest = Math.max(longest, now - Math.max(answeredAt, healthySince));
        }, 20);
        await Promise.all(
          upstreams.map(async (one, index) => {
            for (const { mood, ms } of each[index] as { mood: Mood; ms: number }[]) {
              await one.become(mood);
              await pause(ms);
            }
            await one.become('well');
          }),
        );
        await until(async () => performance.now() - answeredAt < 20);
        over = true;
        clearInterval(watch);
        await feed;
        for (const [id, words] of ids) {
          const { status, result } = await client.wait(id);
          const { choices = [] } = Object(result?.body) as { choices?: { message: { content: string } }[] };
          assert.deepEqual([status, choices[0]?.message.content], ['succeeded', words], logged.join('\n'));
        }
        assert.ok(longest < LONGEST_PAUSE_MS, `a pause of ${Math.round(longest)} ms\n${logged.join('\n')}`);
        await worker.stop();
        for (const one of upstreams) await one.stop();
      }),
      { numRuns: RUNS, endOnFailure: true },
    );
    t.diagnostic(`${RUNS} runs`);
  });
});
