import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { gzipSync } from 'node:zlib';

type Act = (res: ServerResponse, answer: string) => void;

const json = (res: ServerResponse, status: number, body: string, headers = {}) =>
  res.writeHead(status, { 'content-type': 'application/json', ...headers }).end(body);
const error = (message: string) =>
  JSON.stringify({ error: { message, type: 'server_error', param: null, code: null } });

/** Eleven ways in which a model server fails, or answers oddly, beside `well` and `away`. */
const MOODS = {
  well: (res, answer) => json(res, 200, answer),
  refuses: (res) => json(res, 429, error('too many requests')),
  busy: (res) => json(res, 503, error('loading the model'), { 'retry-after': '1' }),
  fails: (res) => json(res, 500, error('CUDA out of memory')),
  garbles: (res) => json(res, 500, error('unexpected token \0 in the output')),
  hangs: () => undefined,
  cuts: (res, answer) => {
    res.writeHead(200, { 'content-type': 'application/json', 'content-length': answer.length + 1 });
    res.write(answer.slice(0, answer.length / 2), () => res.destroy());
  },
  pages: (res) => res.writeHead(200, { 'content-type': 'text/html' }).end('<h1>It works</h1>'),
  binary: (res) => res.writeHead(200, { 'content-type': 'image/png' }).end(Buffer.from([0x89, 0x50, 0, 0, 0x0d, 0xff])),
  empty: (res) => res.writeHead(200, { 'content-type': 'application/json' }).end(),
  zips: (res, answer) => res.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(answer)),
} satisfies Record<string, Act>;

export type Mood = keyof typeof MOODS | 'away';
export const MOOD_NAMES = [...Object.keys(MOODS), 'away'] as Mood[];
/** In these it answers, so work must go on. */
export const ANSWERS: ReadonlySet<Mood> = new Set<Mood>(['well', 'zips']);

/** A model server whose behaviour is changed while it runs; its answers echo the last message. */
export async function startMoody(options: { answerMs?: number; onAnswer?: (echo: string) => void } = {}) {
  const { answerMs = 5, onAnswer = () => undefined } = options;
  let mood: Mood = 'well';
  let server: Server | undefined;
  let port = 0;

  const handle = async (req: IncomingMessage, res: ServerResponse) => {
    if (req.method === 'GET') {
      if (mood !== 'hangs') json(res, mood === 'fails' ? 500 : 200, '{"object":"list","data":[]}');
      return;
    }
    const { model, messages } = JSON.parse(await text(req).catch(() => '{}'));
    const echo = String(messages?.at(-1)?.content);
    const message = { role: 'assistant', content: echo };
    const choices = [{ index: 0, message, finish_reason: 'stop' }];
    const answer = JSON.stringify({ id: 'cmpl-1', object: 'chat.completion', created: 0, model, choices });
    setTimeout(() => {
      if (ANSWERS.has(mood)) onAnswer(echo);
      if (mood === 'away') res.destroy();
      else MOODS[mood](res, answer);
    }, answerMs);
  };
  const open = async () => {
    const mine = createServer((req, res) => void handle(req, res));
    await new Promise<void>((resolve) => mine.listen(port, '127.0.0.1', resolve));
    port = (mine.address() as AddressInfo).port;
    server = mine;
  };
  const close = async () => {
    const mine = server;
    server = undefined;
    if (!mine) return;
    await new Promise<void>((resolve) => {
      mine.close(() => resolve());
      mine.closeAllConnections();
    });
  };
  await open();

  return {
    url: `http://127.0.0.1:${port}`,
    get mood() {
      return mood;
    },
    async become(next: Mood): Promise<void> {
      mood = next;
      if (next === 'away') await close();
      else if (!server) await open();
    },
    stop: close,
  };
}
