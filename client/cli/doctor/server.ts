import type { Client } from '../../client.ts';
import { ApiError, codeOf } from '../../errors.ts';
import { type Check, ok, problem, warning } from './check.ts';
import { lookAtLanes, tryTask } from './work.ts';

const CLOCK_SECONDS = 5;
const ANSWER_MS = 10_000;

/** What can be seen over HTTP; `version` is our own. */
export async function checkServer(client: Client, version: string): Promise<Check[]> {
  const node = ok('node', process.version);
  let reply: Response;
  const began = Date.now();
  try {
    reply = await fetch(`${client.baseUrl}/health`, { signal: AbortSignal.timeout(ANSWER_MS) });
  } catch (error) {
    const why = codeOf(error) ?? (error as Error).message;
    const advice = 'start one with: tasklane serve; or name another by --url or TASKLANE_URL';
    return [problem('server', `no answer from ${client.baseUrl}: ${why}`, advice), node];
  }
  const ended = Date.now();
  const checks = [
    reply.ok
      ? ok('server', `${client.baseUrl} is up, and answers in ${ended - began} ms`)
      : problem(
          'server',
          `${client.baseUrl} answers ${reply.status}`,
          'it can not reach its database: look at its log',
        ),
    ...(await writes(client)),
    node,
    clock(reply.headers.get('date'), began, ended),
    await versions(client, version),
  ];
  const { role, check } = await key(client);
  checks.push(check);
  if (role === 'admin') {
    checks.push(await tryTask(client));
    checks.push(...(await lookAtLanes(client).catch((error: Error) => [problem('lanes', error.message, LATER)])));
  }
  return checks;
}
const LATER = 'see the other problems first, then look again';

/** What to do for what a server says that it is not ready for. */
const REMEDIES: readonly (readonly [RegExp, string])[] = [
  [/held by pid (\d+)/, 'if it was forgotten: select pg_terminate_backend($1);'],
  [/standby/, 'start it, or take it out of synchronous_standby_names'],
  [/disk/, 'make room beside the database'],
  [/read-only/, 'it may be the standby now: lead DATABASE_URL to the primary'],
  [/refuses the/, "set the password in the server's DATABASE_URL, and start it again"],
  [/no connection left/, 'raise max_connections, or lower TASKLANE_MAX_CONNECTIONS'],
  [/refused|no answer|unknown/, 'does Postgres run, and does the way to it work?'],
];

/** Whether a put would be written; nothing of servers that do not tell. */
async function writes(client: Client): Promise<Check[]> {
  try {
    const reply = await fetch(`${client.baseUrl}/health/ready`, { signal: AbortSignal.timeout(ANSWER_MS) });
    const { reason = `answers ${reply.status}` } = (await reply.json().catch(() => ({}))) as { reason?: string };
    if (reply.ok) return [ok('writes', 'go through')];
    if (reply.status !== 503) return [];
    const [pattern, remedy] = REMEDIES.find(([one]) => one.test(reason)) ?? [];
    return [
      problem('writes', reason, remedy?.replace('$1', pattern?.exec(reason)?.[1] ?? '') ?? "look at the server's log"),
    ];
  } catch (error) {
    return [problem('writes', (error as Error).message, "look at the server's log")];
  }
}

/** `Date` has whole seconds, so a second is no difference. */
function clock(date: string | null, began: number, ended: number): Check {
  const there = Date.parse(date ?? '');
  if (Number.isNaN(there)) return warning('clock', 'the server sends no Date', 'look at what stands between');
  const difference = there < began - 1000 ? (there - began) / 1000 : there > ended ? (there - ended) / 1000 : 0;
  const shown = `${Math.abs(difference).toFixed(1)} s`;
  return Math.abs(difference) < CLOCK_SECONDS
    ? ok('clock', "this machine's and the server's agree")
    : warning('clock', `the server's is ${shown} ${difference < 0 ? 'behind' : 'ahead'}`, 'let both follow NTP');
}

async function versions(client: Client, version: string): Promise<Check> {
  const { info } = await client
    .request<{ info?: { version?: string } }>('GET', '/openapi.json', limit())
    .catch(() => ({ info: undefined }));
  const theirs = info?.version;
  if (theirs === undefined)
    return problem(
      'version',
      `${client.baseUrl} does not describe itself`,
      'it is no Tasklane: name one by --url or TASKLANE_URL',
    );
  if (theirs === version) return ok('version', `client and server ${version}`);
  return warning('version', `client ${version}, server ${theirs}`, 'use the same version of both');
}

const limit = () => ({ signal: AbortSignal.timeout(ANSWER_MS) });

/** What a key may do tells its role. */
async function key(client: Client): Promise<{ role?: 'admin' | 'worker' | 'client'; check: Check }> {
  const may = async (call: Promise<unknown>): Promise<boolean> => {
    try {
      await call;
      return true;
    } catch (error) {
      if (error instanceof ApiError && error.status === 403) return false;
      throw error;
    }
  };
  const untried = ': a task and the lanes are looked at with a key of an admin';
  try {
    if (await may(client.keys.list(limit()))) return { role: 'admin', check: ok('key', 'of role admin') };
    if (await may(client.workers.list(limit())))
      return { role: 'worker', check: ok('key', `of role worker${untried}`) };
    return { role: 'client', check: ok('key', `of role client${untried}`) };
  } catch (error) {
    const { message } = error as Error;
    // Only the server can say that a key is wrong.
    if (!(error instanceof ApiError && error.status === 401))
      return { check: warning('key', `not looked at: ${message}`, LATER) };
    const advice = 'set TASKLANE_API_KEY, or api_key in tasklane.yaml, to a key of this server';
    return { check: problem('key', message, advice) };
  }
}
