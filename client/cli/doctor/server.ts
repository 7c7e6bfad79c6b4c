import type { Client } from '../../client.ts';
import { ApiError, codeOf } from '../../errors.ts';
import { type Check, ok, problem, warning } from './check.ts';

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
  return [
    reply.ok
      ? ok('server', `${client.baseUrl} is up, and answers in ${ended - began} ms`)
      : problem(
          'server',
          `${client.baseUrl} answers ${reply.status}`,
          'it can not reach its database: look at its log',
        ),
    node,
    clock(reply.headers.get('date'), began, ended),
    await versions(client, version),
    await key(client),
  ];
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
    .request<{ info?: { version?: string } }>('GET', '/openapi.json')
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

/** What a key may do tells its role. */
async function key(client: Client): Promise<Check> {
  const may = async (call: Promise<unknown>): Promise<boolean> => {
    try {
      await call;
      return true;
    } catch (error) {
      if (error instanceof ApiError && error.status === 403) return false;
      throw error;
    }
  };
  try {
    if (await may(client.keys.list())) return ok('key', 'of role admin');
    if (await may(client.workers.list())) return ok('key', 'of role worker');
    return ok('key', 'of role client');
  } catch (error) {
    const advice = 'set TASKLANE_API_KEY, or api_key in tasklane.yaml, to a key of this server';
    return problem('key', (error as Error).message, advice);
  }
}
