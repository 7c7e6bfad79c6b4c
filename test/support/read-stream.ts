import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import type { Answer, RequestOptions, Server } from './server.ts';

/** `isWhole`: the reply came to its end, and was not cut. */
export type StreamAnswer = Answer & { isWhole: boolean };

/** POSTs, and reads the reply up to its end or to where its connection is cut. Rejects where there is no reply. */
export async function readStream(
  server: Server,
  path: string,
  body: object,
  options: RequestOptions = {},
): Promise<StreamAnswer> {
  const { key = server.adminKey, headers = {}, signal } = options;
  const outgoing = request(server.url + path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${key}`, ...headers },
    agent: false,
    ...(signal && { signal }),
  });
  outgoing.end(JSON.stringify(body));
  const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage];
  let text = '';
  incoming.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  const error = await new Promise<Error | undefined>((resolve) => {
    let why: Error | undefined;
    incoming.on('error', (error) => {
      why = error;
    });
    incoming.on('close', () => resolve(why));
  });
  if (signal?.aborted) throw error;
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {}
  const told = Object.entries(incoming.headersDistinct).flatMap(([name, values]) =>
    (values ?? []).map((value) => [name, value] as [string, string]),
  );
  return { status: incoming.statusCode as number, headers: new Headers(told), text, json, isWhole: incoming.complete };
}
