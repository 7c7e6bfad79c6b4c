import type { Database } from '../db/open.ts';
import { readWorkers, setDraining } from '../db/workers.ts';
import type { Tasks } from '../tasks/tasks.ts';
import { type Route, route } from './route.ts';

export function workerRoutes({ db, tasks }: { db: Database; tasks: Tasks }): Route[] {
  const drain = async (id: string | undefined, draining: boolean) => {
    const ids = await setDraining(db, id ?? '', draining);
    // Other servers were told by the database, which tells this one as well, only later.
    await tasks.workers.heard(ids);
    return { json: id };
  };

  return [
    route({
      method: 'get',
      path: '/v1/workers',
      summary: 'Who takes tasks: its state, in which lanes, what it runs and how fast, and how its upstreams are',
      roles: ['worker'],
      async handle() {
        await tasks.workers.flush();
        const data = (await readWorkers(db)).map(({ worker, running, ...row }) => ({
          id: worker,
          ...row,
          running: Number(running),
        }));
        return { json: { data, has_more: false } };
      },
    }),
    route({
      method: 'post',
      path: '/v1/workers/:id/drain',
      summary: 'Tell a worker, or all of a name, to drain: its takes give nothing from now on',
      roles: [],
      handle: ({ params }) => drain(params.id, true),
    }),
    route({
      method: 'post',
      path: '/v1/workers/:id/resume',
      summary: 'Let a worker, or all of a name, that was told to drain take tasks again',
      roles: [],
      handle: ({ params }) => drain(params.id, false),
    }),
  ];
}
