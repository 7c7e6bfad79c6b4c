/** A Tasklane server over HTTP, as anyone outside sees it. */
export type Tasklane = ReturnType<typeof connect>;

export type Reply = { status: number; headers: Headers; json: unknown };

export type StreamEvent = { id: string; name: string; data: unknown };

export function connect(url: string, key: string) {
  const send = (method: string, path: string, body: unknown, signal: AbortSignal | undefined) =>
    fetch(url + path, {
      method,
      headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      ...(signal && { signal }),
    });

  /** The reply, whatever its status. */
  const request = async (method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Reply> => {
    const response = await send(method, path, body, signal);
    const text = await response.text();
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch {
      json = text === '' ? undefined : text;
    }
    return { status: response.status, headers: response.headers, json };
  };

  return {
    url,
    request,

    /** The reply's JSON. Throws with the server's message when the status is not 2xx. */
    async call<T = unknown>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
      const reply = await request(method, path, body, signal);
      if (reply.status < 300) return reply.json as T;
      const { message } = (reply.json ?? {}) as { message?: string };
      throw new Error(`${method} ${path} answered ${reply.status}: ${message ?? reply.json}`);
    },

    /** Puts a streaming task and gives its events as they come. */
    async *stream(body: unknown, signal?: AbortSignal): AsyncGenerator<StreamEvent> {
      const response = await send('POST', '/v1/queue/put', body, signal);
      if (response.status !== 200 || !response.body) {
        throw new Error(`POST /v1/queue/put answered ${response.status}: ${await response.text()}`);
      }
      let text = '';
      for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
        text += piece;
        const events = text.split('\n\n');
        text = events.pop() ?? '';
        for (const event of events) {
          const field = (name: string) => new RegExp(`^${name}: ?(.*)$`, 'm').exec(event)?.[1];
          const data = field('data');
          if (data !== undefined) yield { id: field('id') ?? '', name: field('event') ?? '', data: JSON.parse(data) };
        }
      }
    },
  };
}
