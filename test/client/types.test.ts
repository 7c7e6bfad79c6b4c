import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { z } from 'zod';
import type { EventType, Put, QueueSettings, Role, ScheduleInput, Strategy, TaskStatus } from '../../client/client.ts';
import type { RetryLater } from '../../client/worker.ts';
import type { EventType as ServersEventType } from '../../server/protocol/feed.ts';
import type { keyBody } from '../../server/protocol/keys.ts';
import type { settingsBody } from '../../server/protocol/queues.ts';
import type { scheduleBody } from '../../server/protocol/schedules.ts';
import { listQuery, type putBody, type releaseBody, type takeBody } from '../../server/protocol/tasks.ts';

/** An error of the compiler where a value of the first type is none of the second. */
type Fits<Given extends Wanted, Wanted> = [Given, Wanted];
type Same<One extends Other, Other extends Again, Again = One> = [One, Other];

// The client's types are written by hand, so that they read well and need no zod. What the server's schemas take, it is held to here.
export type Checked = [
  Fits<Put, z.input<typeof putBody>>,
  Fits<ScheduleInput, z.input<typeof scheduleBody>>,
  Fits<QueueSettings, z.input<typeof settingsBody>>,
  Fits<RetryLater, z.input<typeof releaseBody>>,
  Same<keyof QueueSettings, keyof z.input<typeof settingsBody>>,
  Same<Exclude<keyof z.input<typeof putBody>, 'response_mode'>, keyof Put>,
  Same<Role, z.output<typeof keyBody>['role']>,
  Same<Strategy, z.output<typeof takeBody>['strategy']>,
  Same<TaskStatus, NonNullable<z.output<typeof listQuery>['status']>>,
  Same<EventType, ServersEventType>,
];

test('the states that the client knows are those that the server lists', () => {
  const states: TaskStatus[] = [
    'waiting',
    'deferred',
    'running',
    'succeeded',
    'failed',
    'dead',
    'expired',
    'cancelled',
  ];
  for (const status of states) assert.equal(listQuery.parse({ status }).status, status);
});
