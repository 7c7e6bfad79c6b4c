import type { Auth } from '../auth/auth.ts';
import { invalid } from '../protocol/errors.ts';
import { feedQuery, lastEventId } from '../protocol/feed.ts';
import type { Tasks } from '../tasks/tasks.ts';
import { hangUp } from './give-up.ts';
import { bearer, type Route, route } from './route.ts';
import { openSse } from './sse.ts';

export function feedRoutes(deps: { auth: Auth; tasks: Tasks; stopping: AbortSignal }): Route[] {
  const { auth, tasks, stopping } = deps;
  return [
    route({
      method: 'get',
      path: '/v1/events',
      summary: 'What happens to tasks, as a stream; Last-Event-ID resumes',
      roles: ['client'],
      query: feedQuery,
      async handle({ query, principal, req, res }) {
        const last = lastEventId.safeParse(req.headers['last-event-id']);
        if (!last.success) throw invalid('Last-Event-ID', last.error);
        const signal = AbortSignal.any([hangUp(res), stopping]);
        const events = await tasks.feed.open({ ...query, last_event_id: last.data }, principal);
        const sse = openSse(res, {});
        try {
          for await (const { number, type, json } of events(signal)) {
            // The key may have been revoked since.
            await auth.principal(bearer(req));
            await sse.send({ id: String(number), name: type, data: json });
          }
        } finally {
          sse.end();
        }
        return undefined;
      },
    }),
  ];
}
