import assert from 'node:assert/strict';
import { test } from 'node:test';
import { restAfter } from '../../server/tasks/put.ts';

/** So many requests of so many tasks each. */
const calls = (requests: number, tasks: number) => Array.from({ length: requests }, () => new Array(tasks).fill(0));

test('after a call of some puts a server rests as long as the call took, 10 ms at most, if two others share the database', () => {
  assert.equal(restAfter(calls(8, 1), 4, 2), 4);
  assert.equal(restAfter(calls(99, 1), 40, 5), 10);
  assert.equal(restAfter(calls(8, 1), 4, 1), 0);
});

test('a server does not rest after few requests, however many tasks they put, nor after many tasks', () => {
  assert.equal(restAfter(calls(7, 1), 4, 2), 0);
  assert.equal(restAfter(calls(1, 50), 4, 2), 0);
  assert.equal(restAfter(calls(100, 1), 4, 2), 0);
  assert.equal(restAfter(calls(8, 100), 4, 2), 0);
});
