import type { Request, Response, Router } from 'express';
import type { Metrics } from '../observe/metrics.ts';
import { openApi } from './openapi.ts';
import { type Route, send } from './route.ts';

/** What needs no key: health, metrics, and the description of the API. */
export function mountPublic(
  router: Router,
  deps: { health(): Promise<boolean>; metrics: Metrics; routes: readonly Route[] },
): void {
  const health = async (_req: Request, res: Response) => {
    const up = await deps.health();
    send(res, { status: up ? 200 : 503, json: { status: up ? 'UP' : 'DOWN' } });
  };
  const metrics = async (_req: Request, res: Response) => {
    const { contentType, text } = await deps.metrics.render();
    send(res, { text, headers: { 'Content-Type': contentType } });
  };
  const description = JSON.stringify(openApi(deps.routes));

  router.get('/health', health);
  router.get('/actuator/health', health);
  router.get('/metrics', metrics);
  router.get('/actuator/prometheus', metrics);
  router.get('/openapi.json', (_req, res) => send(res, { text: description }));
}
