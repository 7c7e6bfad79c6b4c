import type { RequestListener } from 'node:http';
import express, { type NextFunction, type Request, type Response } from 'express';
import type { Logger } from 'pino';
import type { Auth } from './auth/auth.ts';
import type { Batches } from './batches/batches.ts';
import type { AddressRule } from './callbacks/address.ts';
import type { HealthChecks } from './db/health.ts';
import type { Database } from './db/open.ts';
import { readLaneStats } from './db/queues.ts';
import type { FileLimits } from './files/files.ts';
import { batchRoutes } from './http/batches.ts';
import { callbackRoutes } from './http/callbacks.ts';
import { channelRoutes } from './http/channels.ts';
import { eventRoutes } from './http/events.ts';
import { feedRoutes } from './http/feed.ts';
import { fileRoutes } from './http/files.ts';
import { frontDoorRoutes } from './http/front-door.ts';
import { keyRoutes } from './http/keys.ts';
import { modelRoutes } from './http/models.ts';
import { mountPublic } from './http/public.ts';
import { queueRoutes } from './http/queues.ts';
import { answerAsOpenAi, mount, sendError } from './http/route.ts';
import { scheduleRoutes } from './http/schedules.ts';
import { taskRoutes } from './http/tasks.ts';
import { tenantRoutes } from './http/tenants.ts';
import { uploadRoutes } from './http/uploads.ts';
import { webhookRoutes } from './http/webhooks.ts';
import { workerRoutes } from './http/workers.ts';
import { createMetrics } from './observe/metrics.ts';
import { badRequest, notFound } from './protocol/errors.ts';
import { refuse } from './protocol/openai.ts';
import type { Schedules } from './schedules/schedules.ts';
import type { Tasks } from './tasks/tasks.ts';

export type AppDeps = {
  db: Database;
  health: HealthChecks;
  tasks: Tasks;
  schedules: Schedules;
  auth: Auth;
  rule: AddressRule;
  log: Logger;
  /** ip:port */
  instance: string;
  maxBodyBytes: number;
  fileLimits: FileLimits;
  batches: Batches;
  /** How long an idempotency key is remembered. */
  keySeconds: number;
  /** There is work to do for these batches. */
  onBatches(ids: readonly string[]): void;
  onCallbacks(): void;
  /** Aborts when the server is asked to stop: takes that wait answer at once. */
  stopping: AbortSignal;
};

/** Where clients expect OpenAI's envelopes, whether or not there is such a route. */
const OPENAI_PATHS =
  /^\/v1\/(files|uploads|batches|models|webhook_endpoints|webhook_event_types|chat|completions|embeddings|responses|moderations|images|audio|videos|fine_tuning|assistants|threads|vector_stores)(\/|$)/;

/** Whether what no route has answered is to be answered in OpenAI's envelope; if so, it will be. */
function inOpenAisWay(req: Request, res: Response): boolean {
  const openai = OPENAI_PATHS.test(req.path);
  if (openai) answerAsOpenAi(res);
  return openai;
}

/** The app, without a socket: Express, and the short cut past it. No middleware runs on every request: it would cost a put a fifth of its rate. */
export function createApp(deps: AppDeps): RequestListener {
  const { db, log } = deps;
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('query parser', false);

  // Express tries routes in order: fixed paths before those with a parameter, hot ones early.
  const routes = [
    ...eventRoutes(deps),
    ...taskRoutes(deps),
    ...frontDoorRoutes(deps),
    ...modelRoutes(deps),
    ...queueRoutes(deps),
    ...channelRoutes(deps),
    ...keyRoutes(deps),
    ...callbackRoutes(deps),
    ...webhookRoutes(deps),
    ...scheduleRoutes(deps),
    ...workerRoutes(deps),
    ...tenantRoutes(deps),
    ...feedRoutes(deps),
    ...fileRoutes(deps),
    ...uploadRoutes(deps),
    ...batchRoutes(deps),
  ];
  const direct = mount(app, routes, deps);
  mountPublic(app, {
    health: deps.health,
    metrics: createMetrics(() => readLaneStats(db), deps.tasks.lateTakes),
    routes,
  });

  app.use((req: Request, res: Response) => {
    if (!inOpenAisWay(req, res)) return sendError(res, notFound(`no route ${req.method} ${req.path}`), log);
    sendError(res, refuse(404, `Invalid URL (${req.method} ${req.path})`), log);
  });
  app.use((error: unknown, req: Request, res: Response, _next: NextFunction) => {
    inOpenAisWay(req, res);
    const refused = error instanceof URIError ? badRequest('the path is not a valid URL path') : error;
    sendError(res, refused, log);
  });
  return (req, res) => {
    if (!direct(req, res)) app(req, res);
  };
}
