import { ownerOf, type Principal } from '../auth/auth.ts';
import type { AddressRule } from '../callbacks/address.ts';
import type { Schedule } from '../db/schedules.ts';
import { notFound } from '../protocol/errors.ts';
import { memberTexts } from '../protocol/json.ts';
import {
  parseScheduleId,
  previewQuery,
  printScheduleId,
  scheduleBody,
  scheduleChanges,
  schedulesQuery,
} from '../protocol/schedules.ts';
import type { PutBody } from '../protocol/tasks.ts';
import type { Schedules } from '../schedules/schedules.ts';
import { newTask } from '../tasks/new-task.ts';
import { checkCallback } from './check-callback.ts';
import { type Route, route } from './route.ts';

export function scheduleRoutes({ schedules, rule }: { schedules: Schedules; rule: AddressRule }): Route[] {
  /** The task of a body and the task's text. Throws 400 for a callback that may not be sent there. */
  const taskIn = (put: PutBody, bodyText: string, principal: Principal) => {
    checkCallback(rule, put, 'task.');
    const text = memberTexts(bodyText).get('task') as string;
    return { text, task: newTask(put, text, principal) };
  };
  const enable = async (id: string | undefined, principal: Principal, enabled: boolean) => ({
    text: scheduleJson(await schedules.change(numberOf(id), ownerOf(principal), { enabled })),
  });

  return [
    route({
      method: 'post',
      path: '/v1/schedules',
      summary: 'Make a schedule, which puts a task whenever its cron expression is due',
      roles: ['client'],
      body: scheduleBody,
      async handle({ body, text: bodyText, principal }) {
        const { text, task } = taskIn(body.task, bodyText, principal);
        return { text: scheduleJson(await schedules.create({ ...body, task: text }, task)) };
      },
    }),
    route({
      method: 'get',
      path: '/v1/schedules',
      summary: 'Schedules, newest first',
      roles: ['client'],
      query: schedulesQuery,
      async handle({ query, principal }) {
        const before = query.after === undefined ? null : numberOf(query.after);
        const page = await schedules.list(ownerOf(principal), before, query.limit);
        return { text: `{"data":[${page.schedules.map(scheduleJson).join(',')}],"has_more":${page.more}}` };
      },
    }),
    route({
      method: 'get',
      path: '/v1/schedules/preview',
      summary: 'When a cron expression is due next',
      roles: ['client'],
      query: previewQuery,
      handle: async ({ query }) => ({
        json: { data: await schedules.preview(query.cron, query.timezone, query.count) },
      }),
    }),
    route({
      method: 'get',
      path: '/v1/schedules/:id',
      summary: 'A schedule',
      roles: ['client'],
      handle: async ({ params, principal }) => ({
        text: scheduleJson(await schedules.find(numberOf(params.id), ownerOf(principal))),
      }),
    }),
    route({
      method: 'patch',
      path: '/v1/schedules/:id',
      summary: 'Change a schedule; another cron or time zone counts from now',
      roles: ['client'],
      body: scheduleChanges,
      async handle({ params, body: { task: put, ...body }, text: bodyText, principal }) {
        const given = put ? taskIn(put, bodyText, principal) : null;
        const changes = Object.fromEntries(
          Object.entries({ ...body, task: given?.text }).filter(([, value]) => value != null),
        );
        const changed = await schedules.change(numberOf(params.id), ownerOf(principal), changes, given?.task);
        return { text: scheduleJson(changed) };
      },
    }),
    route({
      method: 'delete',
      path: '/v1/schedules/:id',
      summary: 'Remove a schedule; the tasks that it has put stay',
      roles: ['client'],
      async handle({ params, principal }) {
        await schedules.remove(numberOf(params.id), ownerOf(principal));
        return { status: 204 };
      },
    }),
    route({
      method: 'post',
      path: '/v1/schedules/:id/enable',
      summary: 'Let a schedule put tasks again, from now on',
      roles: ['client'],
      handle: ({ params, principal }) => enable(params.id, principal, true),
    }),
    route({
      method: 'post',
      path: '/v1/schedules/:id/disable',
      summary: 'Let a schedule put nothing until it is enabled',
      roles: ['client'],
      handle: ({ params, principal }) => enable(params.id, principal, false),
    }),
  ];
}

/** A client sees its tenant's schedules, an admin all. */

/** Throws 404: what does not parse is the name of no schedule. */
function numberOf(id: string | undefined): number {
  const scheduleId = parseScheduleId(id ?? '');
  if (scheduleId === undefined) throw notFound(`unknown schedule ${id}`);
  return scheduleId;
}

/** A schedule as the wire has it, with its task as the text it is. */
function scheduleJson(schedule: Schedule): string {
  const { schedule_id, name, cron, timezone, task, enabled, missed, ...rest } = schedule;
  const before = JSON.stringify({ id: printScheduleId(schedule_id), name, cron, timezone });
  const after = JSON.stringify({
    enabled,
    missed,
    next_run: rest.next_run,
    last_run: rest.last_run,
    run_count: Number(rest.run_count),
    last_task_id: rest.last_task_id,
    last_error: rest.last_error,
  });
  return `${before.slice(0, -1)},"task":${task},${after.slice(1)}`;
}
