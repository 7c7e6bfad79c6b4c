import { ownerOf } from '../auth/auth.ts';
import type { AddressRule } from '../callbacks/address.ts';
import { attempt } from '../callbacks/attempt.ts';
import type { Database } from '../db/open.ts';
import {
  createEndpoint,
  deleteEndpoint,
  type Endpoint,
  endpointNumber,
  listEndpoints,
  readEndpoint,
  rotateEndpointSecret,
  sampleEvent,
  updateEndpoint,
} from '../db/webhooks.ts';
import { page, refuse } from '../protocol/openai.ts';
import {
  WEBHOOK_EVENTS,
  webhookBody,
  webhookChange,
  webhookList,
  webhookRotation,
  webhookTest,
} from '../protocol/webhooks.ts';
import { openAiErrorBody, type Route, route } from './route.ts';

const ID = /^whe_[0-9A-Za-z]{1,64}$/;
/** Less than a server that stops has for its last answers. */
const TEST_MS = 15_000;

export function webhookRoutes({ db, rule }: { db: Database; rule: AddressRule }): Route[] {
  const path = '/v1/webhook_endpoints';
  const family = { api: 'openai', roles: ['client'] } as const;
  return [
    route({
      ...family,
      method: 'post',
      path,
      summary: "Send this tenant's events of some types to a URL; the signing secret is shown this once",
      body: webhookBody,
      async handle({ body: { name, url, event_types }, principal }) {
        checkUrl(rule, url);
        return { json: withSecret(await createEndpoint(db, principal.tenantId, name, url, event_types)) };
      },
    }),
    route({
      ...family,
      method: 'get',
      path,
      summary: 'Webhook endpoints, newest first',
      query: webhookList,
      async handle({ query: { after, limit }, principal }) {
        const before = after ? endpointNumber(after) : null;
        if (before === undefined) {
          throw refuse(
            400,
            `Invalid 'after': '${after}'. Expected the ID of a webhook endpoint.`,
            'after',
            'invalid_value',
          );
        }
        const rows = await listEndpoints(db, ownerOf(principal), before, limit + 1);
        return { json: page(rows.map(endpointJson), limit) };
      },
    }),
    route({
      ...family,
      method: 'get',
      path: `${path}/:id`,
      summary: 'A webhook endpoint',
      async handle({ params, principal }) {
        return { json: endpointJson(await known(params.id, (id) => readEndpoint(db, id, ownerOf(principal)))) };
      },
    }),
    route({
      ...family,
      method: 'post',
      path: `${path}/:id`,
      summary: 'Change the name, the URL or the event types of a webhook endpoint',
      body: webhookChange,
      async handle({ params, body, principal }) {
        if (body.url !== undefined) checkUrl(rule, body.url);
        return { json: endpointJson(await known(params.id, (id) => updateEndpoint(db, id, ownerOf(principal), body))) };
      },
    }),
    route({
      ...family,
      method: 'delete',
      path: `${path}/:id`,
      summary: 'Remove a webhook endpoint, and what it has not been sent yet',
      async handle({ params, principal }) {
        await known(params.id, async (id) => (await deleteEndpoint(db, id, ownerOf(principal))) || undefined);
        return { json: { id: params.id, object: 'webhook_endpoint.deleted', deleted: true } };
      },
    }),
    route({
      ...family,
      method: 'post',
      path: `${path}/:id/rotate_secret`,
      summary: 'A new signing secret for a webhook endpoint, shown this once',
      body: webhookRotation,
      async handle({ params, body: { keep_old_secret_active_for_24_hours: keep }, principal }) {
        return {
          json: withSecret(await known(params.id, (id) => rotateEndpointSecret(db, id, ownerOf(principal), keep))),
        };
      },
    }),
    route({
      ...family,
      method: 'post',
      path: `${path}/:id/test`,
      summary: 'Send a sample event to a webhook endpoint, once, and tell how it answered',
      body: webhookTest,
      async handle({ params, body: { event_type }, principal }) {
        const sample = await known(params.id, (id) => sampleEvent(db, id, ownerOf(principal), event_type));
        const outcome = await attempt(sample, rule, TEST_MS);
        if (!outcome.ok && outcome.status === undefined) return unreachable(outcome.error);
        return {
          json: {
            object: 'webhook_endpoint.test',
            webhook_endpoint_id: params.id,
            event_type,
            success: true,
            status_code: outcome.status,
          },
        };
      },
    }),
    route({
      ...family,
      method: 'get',
      path: '/v1/webhook_event_types',
      summary: 'The types of events that this server sends',
      handle: () => ({ json: { object: 'list', data: WEBHOOK_EVENTS } }),
    }),
  ];
}

function checkUrl(rule: AddressRule, url: string): void {
  const refused = rule.checkUrl(url);
  if (refused !== undefined) throw refuse(400, `Invalid 'url': ${refused}.`, 'url', 'invalid_value');
}

/** What `ask` finds under an id; 404 when there is nothing. */
async function known<Found>(id: string | undefined, ask: (id: string) => Promise<Found | undefined>): Promise<Found> {
  const found = id !== undefined && ID.test(id) ? await ask(id) : undefined;
  if (found === undefined) throw refuse(404, `No webhook endpoint found with id '${id}'.`);
  return found;
}

/** An answer, not a throw: no fault of this server, which would be logged as one. The SDKs would repeat it and hide why. */
function unreachable(why: string) {
  const error = refuse(502, `The webhook endpoint could not be reached: ${why}`, null, 'webhook_endpoint_unreachable');
  return { status: 502, headers: { 'x-should-retry': 'false' }, json: openAiErrorBody(error) };
}

const seconds = (at: number) => Math.floor(at / 1000);

function endpointJson(endpoint: Endpoint) {
  return {
    id: endpoint.endpoint_id,
    object: 'webhook_endpoint',
    created_at: seconds(endpoint.created_at),
    updated_at: seconds(endpoint.updated_at),
    name: endpoint.name,
    url: endpoint.url,
    event_types: endpoint.event_types,
    signing_secret_hint: `whsec_...${endpoint.signing_secret.slice(-4)}`,
  };
}

const withSecret = (endpoint: Endpoint) => ({ ...endpointJson(endpoint), signing_secret: endpoint.signing_secret });
