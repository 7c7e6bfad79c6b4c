import { type Model, readModels } from '../db/models.ts';
import type { Database } from '../db/open.ts';
import { modelNotFound } from '../protocol/models.ts';
import { modelName } from '../protocol/names.ts';
import { type Route, route } from './route.ts';

export function modelRoutes({ db }: { db: Database }): Route[] {
  return [
    route({
      api: 'openai',
      method: 'get',
      path: '/v1/models',
      summary: 'The models that requests may name',
      roles: ['client', 'worker'],
      async handle() {
        return { json: { object: 'list', data: (await readModels(db)).map(modelJson) } };
      },
    }),
    route({
      api: 'openai',
      method: 'get',
      // Ids may contain slashes, and come with them or with %2F.
      path: '/v1/models/*id',
      summary: 'A model',
      roles: ['client', 'worker'],
      async handle({ params }) {
        const id = [params.id].flat().join('/');
        const [model] = modelName.safeParse(id).success ? await readModels(db, id) : [];
        if (!model) throw modelNotFound(id);
        return { json: modelJson(model) };
      },
    }),
  ];
}

const modelJson = ({ id, created }: Model) => ({ id, object: 'model', created, owned_by: 'tasklane' });
