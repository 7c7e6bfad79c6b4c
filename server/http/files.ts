import { ownerOf, type Principal } from '../auth/auth.ts';
import { deleteFile, fileNumberOf, findFile, listFiles, type StoredFile } from '../db/files.ts';
import type { Database } from '../db/open.ts';
import { type FileLimits, receiveFile } from '../files/files.ts';
import { fileFormContent, fileListQuery } from '../protocol/files.ts';
import { page, refuse } from '../protocol/openai.ts';
import { sendContent } from './file-content.ts';
import { fileJson } from './file-json.ts';
import { type Route, route } from './route.ts';

export function fileRoutes({ db, fileLimits }: { db: Database; fileLimits: FileLimits }): Route[] {
  const find = async (id: string | undefined, principal: Principal): Promise<StoredFile> => {
    const file = await findFile(db, id ?? '', ownerOf(principal));
    if (!file) throw noSuchFile(id);
    return file;
  };

  return [
    route({
      api: 'openai',
      method: 'post',
      path: '/v1/files',
      summary: 'Upload a file; without expires_after one with purpose batch expires after 30 days, others never',
      roles: ['client'],
      form: fileFormContent,
      async handle({ req, principal }) {
        const file = await receiveFile(req, { db, limits: fileLimits, tenantId: principal.tenantId });
        return { json: fileJson(file) };
      },
    }),
    route({
      api: 'openai',
      method: 'get',
      path: '/v1/files',
      summary: 'Files, newest first',
      roles: ['client'],
      query: fileListQuery,
      async handle({ query, principal }) {
        const owner = ownerOf(principal);
        const { after, limit, order, purpose = null } = query;
        const afterNumber = after === undefined ? null : await fileNumberOf(db, after, owner);
        // To begin anew would go round in circles, and to end here would lose files.
        if (afterNumber === undefined) {
          throw refuse(400, `Invalid 'after': no such File object: '${after}'.`, 'after', 'invalid_value');
        }
        const files = await listFiles(db, owner, purpose, afterNumber, order === 'desc', limit + 1);
        return { json: page(files.map(fileJson), limit) };
      },
    }),
    route({
      api: 'openai',
      method: 'get',
      path: '/v1/files/:id',
      summary: 'A file',
      roles: ['client'],
      handle: async ({ params, principal }) => ({ json: fileJson(await find(params.id, principal)) }),
    }),
    route({
      api: 'openai',
      method: 'get',
      path: '/v1/files/:id/content',
      summary: 'The bytes of a file, or the range of them that is asked for',
      roles: ['client'],
      async handle({ params, principal, req, res }) {
        await sendContent(req, res, db, await find(params.id, principal));
        return undefined;
      },
    }),
    route({
      api: 'openai',
      method: 'delete',
      path: '/v1/files/:id',
      summary: 'Delete a file; a batch that reads it is not disturbed',
      roles: ['client'],
      async handle({ params, principal }) {
        if (!(await deleteFile(db, params.id ?? '', ownerOf(principal)))) throw noSuchFile(params.id);
        return { json: { object: 'file', id: params.id, deleted: true } };
      },
    }),
  ];
}

const noSuchFile = (id: string | undefined) => refuse(404, `No such File object: ${id}`, 'id');
