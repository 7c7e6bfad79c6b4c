import { z } from 'zod';
import type { Route } from './route.ts';

/** `:name`, or `*name` for the rest of the path. */
const PARAMETER = /[:*](\w+)/g;

/** The OpenAPI 3.1 description of the routes, made from what they validate. */
export function openApi(routes: readonly Route[]) {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const one of routes) {
    const path = one.path.replaceAll(PARAMETER, '{$1}');
    const names = [...one.path.matchAll(PARAMETER)].map((match) => match[1] as string);
    const parameters: unknown[] = names.map((name) => ({
      name,
      in: 'path',
      required: true,
      schema: { type: 'string' },
    }));
    if (one.query) {
      const { properties = {} } = jsonSchema(one.query);
      for (const [name, schema] of Object.entries(properties)) parameters.push({ name, in: 'query', schema });
    }
    const [type, content] = one.form ? ['multipart/form-data', one.form] : ['application/json', one.body];
    paths[path] ??= {};
    paths[path][one.method] = {
      summary: one.summary,
      description: `Roles: ${[...one.roles, 'admin'].join(', ')}`,
      ...(parameters.length > 0 && { parameters }),
      ...(content && { requestBody: { required: true, content: { [type]: { schema: jsonSchema(content) } } } }),
      responses: {
        '2XX': { description: 'done' },
        default: {
          description: 'refused',
          content: { 'application/json': { schema: one.api ? OPENAI_ERROR : ERROR } },
        },
      },
    };
  }
  return {
    openapi: '3.1.0',
    info: { title: 'Tasklane', version: '0.1.0', license: { name: 'MIT' } },
    components: { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } },
    security: [{ key: [] }],
    paths,
  };
}

const jsonSchema = (schema: z.ZodType) => z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' });

const ERROR = {
  type: 'object',
  required: ['code', 'message', 'timestamp'],
  properties: {
    code: { type: 'integer' },
    message: { type: 'string' },
    timestamp: { type: 'integer', description: 'epoch milliseconds' },
    details: {
      type: 'array',
      items: { type: 'object', properties: { path: { type: 'string' }, message: { type: 'string' } } },
    },
  },
};

const OPENAI_ERROR = {
  type: 'object',
  required: ['error'],
  properties: {
    error: {
      type: 'object',
      required: ['message', 'type', 'param', 'code'],
      properties: {
        message: { type: 'string' },
        type: { type: 'string' },
        param: { type: ['string', 'null'] },
        code: { type: ['string', 'null'] },
      },
    },
  },
};
