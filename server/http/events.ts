import { z } from 'zod';
import { EVENT_BUS_PATH } from '../protocol/events.ts';
import { elementTexts } from '../protocol/json.ts';
import { applyBusEvents } from '../tasks/bus-events.ts';
import type { Tasks } from '../tasks/tasks.ts';
import { type Route, route } from './route.ts';

const MAX_EVENTS = 1000;

export function eventRoutes({ tasks, instance }: { tasks: Tasks; instance: string }): Route[] {
  return [
    route({
      method: 'get',
      path: EVENT_BUS_PATH,
      summary: "Where the event bus's WebSocket is",
      roles: ['client', 'worker'],
      handle({ req }) {
        const scheme = req.headers['x-forwarded-proto'] === 'https' ? 'wss' : 'ws';
        return {
          json: { url: `${scheme}://${req.headers.host ?? instance}${EVENT_BUS_PATH}`, topic: 'bella:eventbus:' },
        };
      },
    }),
    route({
      method: 'post',
      path: '/v1/queue/events',
      summary: 'Report progress and completions: one event of the event bus, or an array of them',
      roles: ['worker'],
      bringsAnswers: true,
      body: z.union([z.looseObject({}), z.array(z.unknown()).max(MAX_EVENTS)]),
      async handle({ body, text }) {
        const lone = !Array.isArray(body);
        const results = await applyBusEvents(tasks, lone ? [text] : elementTexts(text));
        const [first] = results;
        if (lone && first?.error) throw first.error;
        return { json: { data: results.map((result) => result.verdict) } };
      },
    }),
  ];
}
