import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Task } from '../../../client/types.ts';
import { dataTextOf, maxAnswerBytesOf, tasksIn } from '../../../client/worker/taken.ts';

const DATA = '{ "n": 1.0, "big":12345678901234567890, "a":1,"a":2, "狐":"\\ud83d" }';
const task = (id: string, data = DATA) => `{"task_id":"${id}","level":0,"data":${data},"metadata":{"data":"x"}}`;

test('tasks come in the order of the lanes that were asked for, with their data to the letter', () => {
  const text = `{"b:1":[${task('3')}],"a:0":[${task('1')}, ${task('2', '[1.0]')}]}`;
  const tasks = tasksIn(text, ['a:0', 'none:0', 'b:1']);
  assert.deepEqual(
    tasks.map((one) => [one.task_id, dataTextOf(one)]),
    [
      ['1', DATA],
      ['2', '[1.0]'],
      ['3', DATA],
    ],
  );
  assert.deepEqual(tasksIn('{}', ['a:0']), []);
  assert.deepEqual(dataTextOf((tasksIn(`{"a:0":[${task('1')}]}`, ['a:0']) as [Task])[0]), DATA);
});

test('a task’s data is read when it is looked at, and is the same each time', () => {
  const [one] = tasksIn(`{"a:0":[${task('1')}]}`, ['a:0']) as [Task];
  assert.equal(one.data.n, 1);
  assert.equal(one.data, one.data);
  assert.deepEqual(JSON.parse(JSON.stringify(one)), JSON.parse(task('1')));
  assert.deepEqual({ ...one }.metadata, { data: 'x' });
});

test('how large an answer may be is what the server says, less what goes around it', () => {
  const [usual] = tasksIn(`{"a:0":[${task('1')}]}`, ['a:0']) as [Task];
  const [told] = tasksIn(`{"a:0":[${task('1')}]}`, ['a:0'], 1_000_000) as [Task];
  assert.ok(maxAnswerBytesOf(usual) > 60_000_000 && maxAnswerBytesOf(usual) < 1 << 26);
  assert.ok(maxAnswerBytesOf(told) > 900_000 && maxAnswerBytesOf(told) < 1_000_000);
});
