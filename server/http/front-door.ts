import type { z } from 'zod';
import { readEndpoints } from '../db/models.ts';
import type { Database } from '../db/open.ts';
import { TasklaneError } from '../protocol/errors.ts';
import { modelNotFound, modelRequest, moderationRequest } from '../protocol/models.ts';
import { newRequest } from '../tasks/new-task.ts';
import type { Tasks } from '../tasks/tasks.ts';
import { answerBlocking, putAttended } from './answers.ts';
import { answerChunks, type StreamStyle } from './chunks.ts';
import { keyOf } from './idempotency-key.ts';
import { type Route, route } from './route.ts';

/** OpenAI's calls to a model: each puts a live task and answers as its worker does. */
export function frontDoorRoutes({ db, tasks }: { db: Database; tasks: Tasks }): Route[] {
  const door = (
    path: string,
    summary: string,
    style: StreamStyle,
    body: z.ZodType<z.output<typeof modelRequest>> = modelRequest,
  ) =>
    route({
      api: 'openai',
      method: 'post',
      path,
      summary,
      roles: ['client'],
      body,
      async handle({ body: { model, stream }, text, principal, req, res }) {
        const key = keyOf(req);
        const task = newRequest({ endpoint: path, model, stream: stream === true, text }, principal, key);
        const put = await putAttended(db, tasks, task, key !== undefined).catch(async (error) => {
          const unrouted = error instanceof TasklaneError && error.openai.code === 'model_not_found';
          throw unrouted ? modelNotFound(model, path, (await readEndpoints(db, [model])).get(model)) : error;
        });
        return stream ? answerChunks(tasks, put, style, res) : answerBlocking(tasks, put, res);
      },
    });

  return [
    door('/v1/chat/completions', 'Answer a conversation', 'chunks'),
    door('/v1/responses', 'Answer, by the Responses API', 'events'),
    door('/v1/embeddings', 'Turn texts into vectors', 'chunks'),
    door('/v1/completions', 'Complete a text', 'chunks'),
    door('/v1/moderations', 'Judge whether texts may be harmful', 'chunks', moderationRequest),
  ];
}
