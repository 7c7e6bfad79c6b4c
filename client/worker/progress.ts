import { backoff, type Http, sleep } from '../http.ts';
import { jsonOf } from './json-text.ts';
import type { Log } from './log.ts';
import { openSocket, type Socket } from './socket.ts';

/** What one call carries. */
const AT_ONCE = 1000;
const BYTES_AT_ONCE = 1 << 20;
/** After a WebSocket could not be opened, or has broken, HTTP does for this long. */
const WITHOUT_SOCKET_MS = 10_000;

/** How events travel: over a WebSocket as soon as there are any and as long as one can be opened, else by POST; or always by POST. */
export type Transport = 'auto' | 'http';

export type Verdict = { ok: boolean; message?: string };
type Pending = { text: string; settled: (verdict: Verdict) => void };

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
      const opened = await openSocket(http, {
        onAnswer: (verdict) => sent.shift()?.settled(verdict),
        onClose: () => {
          socket = undefined;
          socketAgainAt = Date.now() + WITHOUT_SOCKET_MS;
          // Whether these were stored nobody knows; readers rather see an event twice than miss one.
          waiting = [...sent, ...waiting];
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
    for (let failed = 0; waiting.length > 0 && !given.signal.aborted && !socket; ) {
      let count = 0;
      for (let bytes = 0; count < waiting.length && count < AT_ONCE; count++) {
        bytes += (waiting[count] as Pending).text.length;
        if (count > 0 && bytes > BYTES_AT_ONCE) break;
      }
      const now = waiting.slice(0, count);
      try {
        const body = `[${now.map(({ text }) => text).join(',')}]`;
        const { data } = await http.json<{ data: Verdict[] }>('POST', '/v1/queue/events', {
          body,
          signal: given.signal,
        });
        waiting = waiting.slice(count);
        for (const [index, one] of now.entries()) one.settled(data[index] ?? { ok: false });
        failed = 0;
      } catch (error) {
        if (given.signal.aborted) break;
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
      const text = `{"name":"task-progress-event","payload":${payload.slice(0, -1)},"eventData":${jsonOf(eventData)}}}`;
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
