import { WebSocket } from 'ws';
import type { Http } from '../http.ts';
import type { Verdict } from './progress.ts';

const OPEN_MS = 5000;
const CLOSE_MS = 2000;

export type Socket = { send(text: string): void; close(): void };

/** Opens the event bus. `onAnswer` gets the verdict on each frame, in order; `onClose` is called once, whatever the reason. Rejects when it does not open. */
export async function openSocket(
  http: Http,
  on: { onAnswer(verdict: Verdict): void; onClose(): void },
): Promise<Socket> {
  // Where the client found the server, which is not always what the server thinks its address is.
  const url = `${http.baseUrl.replace(/^http/, 'ws')}/v1/queue/eventbus`;
  const headers = http.apiKey === undefined ? {} : { Authorization: `Bearer ${http.apiKey}` };
  const socket = new WebSocket(url, 'tasklane', { headers, handshakeTimeout: OPEN_MS, perMessageDeflate: false });
  await new Promise<void>((resolve, reject) => {
    socket.once('open', resolve);
    socket.once('error', reject);
  });
  socket.on('error', () => undefined);
  socket.on('message', (frame) => on.onAnswer(JSON.parse(frame.toString())));
  socket.once('close', on.onClose);
  return {
    send: (text) => socket.send(text),
    close() {
      socket.close();
      setTimeout(() => socket.terminate(), CLOSE_MS).unref();
    },
  };
}
