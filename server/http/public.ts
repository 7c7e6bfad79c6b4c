import type { Request, Response, Router } from 'express';
import type { Health, HealthChecks } from '../db/health.ts';
import type { Metrics } from '../observe/metrics.ts';
import { openApi } from './openapi.ts';
import { type Route, send } from './route.ts';

/** What needs no key: health, metrics, and the description of the API. */
export function mountPublic(
  router: Router,
  deps: { health: HealthChecks; metrics: Metrics; routes: readonly Route[] },
): void {
  const tell = (res: Response, health: Health) =>
    send(res, { status: health.status === 'UP' ? 200 : 503, json: health });
  const health = async (_req: Request, res: Response) => {
    const { status } = await deps.health.ping();
    send(res, { status: status === 'UP' ? 200 : 503, json: { status } });
  };
  const metrics = async (_req: Request, res: Response) => {
    const { contentType, text } = await deps.metrics.render();
    send(res, { text, headers: { 'Content-Type': contentType } });
  };
  const description = JSON.stringify(openApi(deps.routes));

  router.get('/health', health);
  router.get('/actuator/health', health);
  router.get('/health/live', (_req, res) => tell(res, { status: 'UP' }));
  router.get('/health/ready', async (_req, res) => tell(res, await deps.health.ready()));
  router.get('/metrics', metrics);
  router.get('/actuator/prometheus', metrics);
  router.get('/openapi.json', (_req, res) => send(res, { text: description }));
}
