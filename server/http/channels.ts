import { deleteChannel, putChannel, readChannels } from '../db/channels.ts';
import type { Database } from '../db/open.ts';
import { notFound } from '../protocol/errors.ts';
import { channelBody } from '../protocol/queues.ts';
import { type Route, route } from './route.ts';

export function channelRoutes({ db }: { db: Database }): Route[] {
  return [
    route({
      method: 'post',
      path: '/v1/channels',
      summary: 'Route (endpoint, model) to a queue, in place of the route there was',
      roles: ['worker'],
      body: channelBody,
      async handle({ body: { endpoint, model, queue } }) {
        return { json: { id: await putChannel(db, endpoint, model, queue), endpoint, model, queue } };
      },
    }),
    route({
      method: 'get',
      path: '/v1/channels',
      summary: 'All channels',
      roles: ['client', 'worker'],
      async handle() {
        const data = (await readChannels(db)).map(({ channel_id, ...channel }) => ({ id: channel_id, ...channel }));
        return { json: { data, has_more: false } };
      },
    }),
    route({
      method: 'delete',
      path: '/v1/channels/:id',
      summary: 'Remove a channel',
      roles: ['worker'],
      async handle({ params }) {
        const id = /^\d{1,9}$/.test(params.id ?? '') ? Number(params.id) : 0;
        if (!(await deleteChannel(db, id))) throw notFound(`unknown channel ${params.id}`);
        return { status: 204 };
      },
    }),
  ];
}
