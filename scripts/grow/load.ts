import { setTimeout as sleep } from 'node:timers/promises';
import { type Answer, account, type Found, type Take } from '../chaos/account.ts';
import type { Report } from './report.ts';
import { ADMIN_KEY, query } from './workshop.ts';

export const ENDPOINT = '/v1/chat/completions';
/** Tasks a put; takes ask for twice as many, so that workers keep up. */
const PUT = 10;
type Taken = { task_id: string; attempt: number; data: { marker: string } };

/** One request of a client or worker; undefined when nobody answered. */
export async function request(url: string, path: string, body?: unknown, patience = 10_000) {
  try {
    const answer = await fetch(url + path, {
      method: body === undefined ? 'GET' : 'POST',
      headers: { Authorization: `Bearer ${ADMIN_KEY}`, 'Content-Type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(patience),
    });
    const text = await answer.text();
    return { status: answer.status, text, json: () => JSON.parse(text) };
  } catch {
    return undefined;
  }
}

export async function register(url: string, queue: string, settings: object = {}): Promise<void> {
  const answer = await request(url, '/v1/queue/register', { queue, endpoint: ENDPOINT, ...settings });
  if (answer?.status !== 200) throw new Error(`${queue} was not registered: ${answer?.status} ${answer?.text}`);
}

/**
 * Clients that put and workers that take and answer, at servers that may be away for a while, and a book of all that was acknowledged.
 * Workers repeat their answers until somebody says yes or no, as the real ones do.
 */
export function startLoad(options: { urls: readonly string[]; queue: string; clients: number; workers: number }) {
  const { urls, queue } = options;
  const acknowledged = new Map<string, string>();
  const takes: Take[] = [];
  const answers: Answer[] = [];
  const failures = new Map<string, number>();
  let markers = 0;
  let putting = true;
  let working = true;
  let lastPut = performance.now();
  let gap = 0;
  const failed = (what: string, answer: Awaited<ReturnType<typeof request>>) => {
    const why = `${what}: ${answer ? `${answer.status} ${answer.text.match(/"message":"([^"]*)/)?.[1] ?? ''}` : 'no answer'}`;
    failures.set(why, (failures.get(why) ?? 0) + 1);
  };

  const put = async (url: string) => {
    while (putting) {
      const puts = Array.from({ length: PUT }, () => ({
        queue,
        endpoint: ENDPOINT,
        data: { marker: `m${++markers}` },
      }));
      const answer = await request(url, '/v1/queue/puts', { tasks: puts });
      if (answer?.status === 200) {
        const ids = answer.json().data as string[];
        for (const [index, id] of ids.entries()) acknowledged.set(id, puts[index]?.data.marker as string);
        gap = Math.max(gap, performance.now() - lastPut);
        lastPut = performance.now();
      } else {
        failed('put', answer);
        await sleep(100);
      }
    }
  };
  const complete = async (url: string, tasks: readonly Taken[]) => {
    const results = tasks.map(({ task_id, attempt, data: { marker } }) => ({
      task_id,
      attempt,
      status_code: 200,
      body: { echo: marker },
    }));
    while (working) {
      const answer = await request(url, '/v1/queue/complete', { results });
      if (answer?.status === 200) {
        const verdicts = answer.json().data as { ok: boolean }[];
        for (const [index, { task_id: taskId, attempt }] of tasks.entries())
          answers.push({ taskId, attempt, accepted: verdicts[index]?.ok === true });
        return;
      }
      failed('complete', answer);
      await sleep(100);
    }
  };
  const work = async (url: string) => {
    while (working) {
      const answer = await request(url, '/v1/queue/take', {
        queues: [`${queue}:0`],
        size: 10,
        wait: 1,
        lease_seconds: 3,
      });
      if (answer?.status !== 200) {
        failed('take', answer);
        await sleep(100);
        continue;
      }
      const tasks = Object.values(answer.json() as Record<string, Taken[]>).flat();
      for (const { task_id: taskId, attempt } of tasks) takes.push({ taskId, attempt });
      if (tasks.length > 0) await complete(url, tasks);
    }
  };
  const at = (index: number) => urls[index % urls.length] as string;
  const clients = Array.from({ length: options.clients }, (_, n) => put(at(n)));
  const workers = Array.from({ length: options.workers }, (_, n) => work(at(n)));

  return {
    get put() {
      return acknowledged.size;
    },
    get answered() {
      return answers.length;
    },
    failures,
    /** Ends it without looking. */
    stop(): void {
      putting = false;
      working = false;
    },
    /** Longest time in which no put was acknowledged, in ms. */
    get longestGap() {
      return gap;
    },
    /** Lets clients stop, and workers go on until nothing waits or runs in the database; then checks that all is accounted for. */
    async settle(databaseUrl: string, report: Report, patience = 30_000): Promise<void> {
      putting = false;
      await Promise.all(clients);
      let left = -1;
      for (const late = Date.now() + patience; left !== 0 && Date.now() < late; await sleep(100)) {
        const [row] = await query<{ left: number }>(
          databaseUrl,
          `select ((select count(*) from tasklane.ready) + (select count(*) from tasklane.running)
                 + (select count(*) from tasklane.deferred))::int as left`,
        );
        left = row?.left ?? -1;
      }
      working = false;
      await Promise.all(workers);
      const found = await query<Found>(
        databaseUrl,
        `select s.task_id as "taskId", s.data ->> 'marker' as marker, s.status, s.attempt, s.body::text as body,
                (select count(*) from tasklane.result r where r.id = s.id)::int as results
         from tasklane.task_status s where s.queue = $1`,
        [queue],
      );
      const { problems, figures } = account({
        ...{ found, acknowledged, takes, answers },
        ...{ keyed: new Map(), cancelled: [], told: [], peaks: [] },
      });
      const byId = new Map(found.map((task) => [task.taskId, task]));
      for (const { taskId, attempt, accepted } of answers)
        if (accepted && byId.get(taskId)?.status !== 'succeeded')
          problems.push(`the answer to ${taskId} attempt ${attempt} was acknowledged and is gone`);
      for (const [what, value] of Object.entries(figures)) if (value > 0) report.figure(what, value);
      report.figure('answers acknowledged', answers.filter(({ accepted }) => accepted).length);
      for (const problem of problems.slice(0, 10)) report.say(`WRONG: ${problem}`);
      report.check('every acknowledged put and answer is there, and every task ended once', problems.length === 0);
    },
  };
}
export type Load = ReturnType<typeof startLoad>;
