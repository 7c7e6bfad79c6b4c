type Task = {
  task_id: string;
  attempt: number;
  endpoint: string;
  response_mode: string;
  data: { messages?: { content: string }[]; prompt?: string; input?: string | string[] };
};

/**
 * A small worker: says what it was told, in the shape of the task's endpoint. What says `fail` fails, and what says `hold` is held, after the first chunk
 * where it streams, until `letGo` is called.
 */
export function answerTasks(url: string, key: string, queues: string[]) {
  const stopping = new AbortController();
  let letGo: () => void = () => undefined;
  const held = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  const post = async (path: string, body: unknown) => {
    const reply = await fetch(url + path, {
      method: 'POST',
      headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
      signal: stopping.signal,
    });
    return reply.json();
  };

  const answer = async ({ task_id, attempt, endpoint, response_mode, data }: Task) => {
    const said = `You said: ${data.messages?.at(-1)?.content ?? data.prompt}`;
    const chunk = (content: string) =>
      post('/v1/queue/events', {
        name: 'task-progress-event',
        payload: { taskId: task_id, eventName: 'chunk', eventData: { choices: [{ delta: { content } }] } },
      });
    if (response_mode === 'streaming') await chunk('You said: ');
    if (said.includes('hold')) await held;
    if (response_mode === 'streaming') await chunk(said.slice('You said: '.length));
    const bad = said.includes('fail');
    const body = bad
      ? { error: { message: 'out of memory' } }
      : (SHAPES[endpoint] ?? SHAPES['/v1/chat/completions'])?.(said, data);
    await post('/v1/queue/complete', { results: [{ task_id, attempt, status_code: bad ? 500 : 200, body }] });
  };

  const run = async () => {
    while (!stopping.signal.aborted) {
      const taken = await post('/v1/queue/take', { queues, size: 10, wait: 30, worker: { id: 'answering' } });
      for (const task of Object.values(taken as Record<string, Task[]>).flat())
        void answer(task).catch(() => undefined);
    }
  };
  const over = run().catch(() => undefined);
  return {
    letGo,
    async stop() {
      stopping.abort();
      await over;
    },
  };
}

const SHAPES: Record<string, (said: string, data: Task['data']) => unknown> = {
  '/v1/chat/completions': (content) => ({
    object: 'chat.completion',
    choices: [{ message: { role: 'assistant', content } }],
  }),
  '/api/chat': (content) => ({ message: { role: 'assistant', content }, done: true }),
  '/api/generate': (response) => ({ response, done: true }),
  '/v1/embeddings': (_, { input = [] }) => ({
    data: [input].flat().map((text, index) => ({ index, embedding: [text.length] })),
  }),
};
