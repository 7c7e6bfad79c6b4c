import { ApiError } from '../errors.ts';
import { backoff, type Http, sleep } from '../http.ts';
import { cut } from './cut.ts';
import { jsonOf } from './json-text.ts';
import type { Log } from './log.ts';
import { openSocket, type Socket } from './socket.ts';

/** After a WebSocket could not be opened, or has broken, HTTP does for this long. */
const WITHOUT_SOCKET_MS = 10_000;

/** How events travel: over a WebSocket as soon as there are any and as long as one can be opened, else by POST; or always by POST. */
export type Transport = 'auto' | 'http';

export type Verdict = { ok: boolean; message?: string };
type Pending = { text: string; settled: (verdict: Verdict) => void };

const START = '{"name":"task-progress-event","payload":{';
/** Whether it was stored nobody knows; the server does, when it is told that this is not the first time. */
const again = (one: Pending): Pending =>
  one.text.startsWith(`${START}"repeated"`)
    ? one
    : { ...one, text: `${START}"repeated":true,${one.text.slice(START.length)}` };

/** A refusal that says nothing of the event. */
const mayPass = ({ ok, message }: Verdict): boolean =>
  !ok && /^(the database is unavailable|internal error)$/.test(message ?? '');

/** Sends progress, in order. An event is sent until the server has stored or refused it. */
export function createProgress(http: Http, transport: Transport, log: Log) {
  let waiting: Pending[] = [];
  /** On their way over the socket, in the order in which the answers come. */
  let sent: Pending[] = [];
  let socket: Socket | undefined;
  let opening = false;
  let socketAgainAt = 0;
  let posting = false;
  const given = new AbortController();

  const open = async () => {
    opening = true;
    try {
      let opened: Socket | undefined;
      opened = await openSocket(http, {
        onAnswer(verdict) {
          if (mayPass(verdict)) opened?.close();
          else if (opened) sent.shift()?.settled(verdict);
        },
        onClose: () => {
          opened = undefined;
          socket = undefined;
          socketAgainAt = Date.now() + WITHOUT_SOCKET_MS;
          waiting = [...sent.map(again), ...waiting];
          sent = [];
          pump();
        },
      });
      if (given.signal.aborted) opened.close();
      else socket = opened;
    } catch (error) {
      socketAgainAt = Date.now() + WITHOUT_SOCKET_MS;
      log(`events go by POST: ${(error as Error).message}`);
    }
    opening = false;
    pump();
  };

  const post = async () => {
    posting = true;
    let most = Number.POSITIVE_INFINITY;
    for (let failed = 0; waiting.length > 0 && !given.signal.aborted && !socket; ) {
      const count = Math.min(cut(waiting), most);
      const now = waiting.slice(0, count);
      try {
        const body = `[${now.map(({ text }) => text).join(',')}]`;
        const { data } = await http.json<{ data: Verdict[] }>('POST', '/v1/queue/events', {
          body,
          signal: given.signal,
        });
        const known = data.findIndex(mayPass);
        const told = known < 0 ? count : known;
        waiting = waiting.slice(told);
        for (const [index, one] of now.slice(0, told).entries()) one.settled(data[index] ?? { ok: false });
        if (told < count) throw new Error(data[told]?.message);
        failed = 0;
        most = Number.POSITIVE_INFINITY;
      } catch (error) {
        if (given.signal.aborted) break;
        if (error instanceof ApiError && (error.status === 400 || error.status === 413)) {
          // One of them is what the server can't take.
          most = Math.ceil(count / 2);
          if (count > 1) continue;
          log(`an event can't be delivered: ${error.message}`);
          waiting.shift()?.settled({ ok: false });
          continue;
        }
        waiting = waiting.map((one, index) => (index < count ? again(one) : one));
        if (failed === 0) log(`events wait: ${(error as Error).message}`);
        await sleep(backoff(failed++), given.signal).catch(() => undefined);
      }
    }
    posting = false;
    pump();
  };

  const pump = () => {
    if (posting || waiting.length === 0 || given.signal.aborted) return;
    if (socket) {
      for (const one of waiting) socket.send(one.text);
      sent.push(...waiting);
      waiting = [];
      return;
    }
    if (transport === 'auto' && !opening && Date.now() >= socketAgainAt) void open();
    void post();
  };

  return {
    /** Resolves with the server's verdict. */
    add(event: {
      taskId: string;
      attempt: number;
      eventName: string;
      eventData: unknown;
      eventId?: string;
    }): Promise<Verdict> {
      const { taskId, attempt, eventId, eventName, eventData } = event;
      const payload = JSON.stringify({ taskId, attempt, eventId, eventName });
      const text = `${START}${payload.slice(1, -1)},"eventData":${jsonOf(eventData)}}}`;
      return new Promise((settled) => {
        waiting.push({ text, settled });
        pump();
      });
    },
    stop(): void {
      given.abort();
      socket?.close();
    },
  };
}
export type Progress = ReturnType<typeof createProgress>;
