import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { TasklaneError } from '../../server/protocol/errors.ts';
import { readCron, ticksAfter } from '../../server/schedules/cron.ts';

/** The next ticks after a time, in UTC and without `:00.000Z`, or in whole where there are seconds. */
const ticks = (cron: string, timezone: string, after: string, count: number) =>
  ticksAfter(readCron(cron, timezone), Date.parse(after), count).map((tick) =>
    new Date(tick).toISOString().replace(/(:00)?\.000Z$/, ''),
  );
const sameTicks = (one: string, other: string) =>
  assert.deepEqual(ticks(one, 'UTC', '2026-01-01T00:00:30Z', 50), ticks(other, 'UTC', '2026-01-01T00:00:30Z', 50));

function assertFault(cron: string, timezone: string, path: string): void {
  assert.throws(
    () => ticksAfter(readCron(cron, timezone), Date.UTC(2026, 0), 1),
    (error) =>
      error instanceof TasklaneError &&
      error.status === 400 &&
      error.message.startsWith(`${path}: `) &&
      !error.message.includes('CronPattern') &&
      error.details?.[0]?.path === path,
    `${cron} ${timezone}`,
  );
}

describe('an expression', () => {
  test('has five fields, or six with seconds first', () => {
    assert.deepEqual(ticks('*/20 9-10 * * *', 'UTC', '2026-05-01T09:30:00Z', 4), [
      '2026-05-01T09:40',
      '2026-05-01T10:00',
      '2026-05-01T10:20',
      '2026-05-01T10:40',
    ]);
    assert.deepEqual(ticks('15,45 0 12 * * *', 'UTC', '2026-05-01T12:00:15Z', 2), [
      '2026-05-01T12:00:45',
      '2026-05-02T12:00:15',
    ]);
    sameTicks('  0\t12  * * *  ', '0 12 * * *');
  });

  test('may be a nickname', () => {
    sameTicks('@yearly', '0 0 1 1 *');
    sameTicks('@annually', '0 0 1 1 *');
    sameTicks('@monthly', '0 0 1 * *');
    sameTicks('@weekly', '0 0 * * 0');
    sameTicks('@daily', '0 0 * * *');
    sameTicks('@Midnight', '0 0 * * *');
    sameTicks(' @hourly ', '0 * * * *');
  });

  test('counts Sunday as 0 and 7, and knows names', () => {
    assert.deepEqual(ticks('0 0 * * 0', 'UTC', '2026-01-01T00:00:00Z', 2), ['2026-01-04T00:00', '2026-01-11T00:00']);
    sameTicks('0 0 * * 7', '0 0 * * 0');
    sameTicks('0 0 * * sun', '0 0 * * 0');
    sameTicks('0 0 * * 5-7', '0 0 * * 0,5,6');
    sameTicks('0 0 1 JAN,jul *', '0 0 1 1,7 *');
    sameTicks('0 0 * feb-apr mon-fri', '0 0 * 2-4 1-5');
  });

  test('is due on either of a day of the month and a day of the week', () => {
    assert.deepEqual(ticks('0 12 13 * 5', 'UTC', '2026-01-01T00:00:00Z', 4), [
      '2026-01-02T12:00',
      '2026-01-09T12:00',
      '2026-01-13T12:00',
      '2026-01-16T12:00',
    ]);
  });

  test('may wait years for its day', () => {
    assert.deepEqual(ticks('0 0 29 2 *', 'UTC', '2026-01-01T00:00:00Z', 2), ['2028-02-29T00:00', '2032-02-29T00:00']);
  });

  test('comes after the time given, be it a millisecond', () => {
    const at = Date.parse('2026-01-01T00:00:05Z');
    const next = readCron('* * * * * *', 'Europe/Berlin');
    assert.equal(next(at - 1), at);
    assert.equal(next(at), at + 1000);
    assert.equal(next(at + 999), at + 1000);
  });

  test('with every second gives each second once, through both changes of the clock', () => {
    const next = readCron('* * * * * *', 'Europe/Berlin');
    const changes = [Date.parse('2026-03-29T01:00:00Z'), Date.parse('2026-10-25T01:00:00Z')];
    fc.assert(
      fc.property(fc.constantFrom(...changes), fc.integer({ min: -7_200_000, max: 7_200_000 }), (change, offset) => {
        const at = change + offset;
        assert.equal(next(at), Math.floor(at / 1000) * 1000 + 1000);
      }),
    );
  });

  test('is refused where it is none, or has what only some crons know', () => {
    const bad = [
      ...[
        '',
        '   ',
        '* * * *',
        '* * * * * * *',
        '* * * * * * 2027',
        'every day',
        '@reboot',
        '@daily 5',
        '0 0 * * @daily',
      ],
      ...[
        '60 * * * *',
        '* 24 * * *',
        '* * 0 * *',
        '* * 32 * *',
        '* * * 13 *',
        '* * * * 8',
        '-1 * * * *',
        '1.5 * * * *',
      ],
      ...[
        '5-1 * * * *',
        '*/0 * * * *',
        '*/100 * * * *',
        '/5 * * * *',
        '5/5 * * * *',
        '1,,2 * * * *',
        '1, * * * *',
        '1- * * * *',
      ],
      ...['* * * * monday', '* * * maymay *', '* * * mon *', '* * * * may', 'mon * * * *'],
      ...['0 0 L * *', '0 0 LW * *', '0 0 15W * *', '0 0 * * MON#2', '0 0 * * 5L', '0 0 1 * +MON', '0 0 ? * *'],
      ...['2030-01-01', '2030-01-01T00:00:00', '2030-01-01T00:00:00Z', '0\n0 * * *', '0 0 * * *\0', '٣ * * * *'],
    ];
    for (const cron of bad) assertFault(cron, 'UTC', 'cron');
  });

  test('that never comes is refused', () => {
    for (const cron of ['0 0 30 2 *', '0 0 31 2,4,6,9,11 *', '* * * 30 feb *']) assertFault(cron, 'UTC', 'cron');
    assert.equal(readCron('0 0 30 2 *', 'Europe/Berlin')(Date.UTC(2026, 0)), null);
  });

  test('of a time zone that there is not is refused; names of every kind are taken', () => {
    for (const zone of ['', ' ', 'Mars/Olympus', '+02:00', '-0500', 'GMT+1', 'Europe/Berlin ', 'UTC\0'])
      assertFault('0 0 * * *', zone, 'timezone');
    for (const zone of [
      'UTC',
      'Europe/Berlin',
      'europe/berlin',
      'US/Pacific',
      'Asia/Calcutta',
      'Asia/Kolkata',
      'CET',
      'Etc/GMT+1',
    ])
      readCron('0 0 * * *', zone);
  });
});

// Berlin goes from 02:00 to 03:00 on 29 March 2026, at 01:00 UTC, and from 03:00 to 02:00 on 25 October, at 01:00 UTC.
describe('when the clocks change', () => {
  test('a time is that of its zone, in summer and in winter', () => {
    assert.deepEqual(ticks('0 9 * * *', 'Europe/Berlin', '2026-03-28T00:00:00Z', 2), [
      '2026-03-28T08:00',
      '2026-03-29T07:00',
    ]);
    assert.deepEqual(ticks('0 9 * * *', 'America/New_York', '2026-07-01T00:00:00Z', 1), ['2026-07-01T13:00']);
    assert.deepEqual(ticks('0 9 * * *', 'Asia/Kolkata', '2026-07-01T00:00:00Z', 1), ['2026-07-01T03:30']);
  });

  test('a fixed time that does not exist comes when the clocks go on', () => {
    const days = ['2026-03-28T01:30', '2026-03-29T01:00', '2026-03-30T00:30'];
    assert.deepEqual(ticks('30 2 * * *', 'Europe/Berlin', '2026-03-28T00:00:00Z', 3), days);
    assert.deepEqual(ticks('30 2,14 * * *', 'Europe/Berlin', '2026-03-28T20:00:00Z', 2), [
      '2026-03-29T01:00',
      '2026-03-29T12:30',
    ]);
  });

  test('a fixed time that exists twice comes the first time', () => {
    const days = ['2026-10-24T00:30', '2026-10-25T00:30', '2026-10-26T01:30'];
    assert.deepEqual(ticks('30 2 * * *', 'Europe/Berlin', '2026-10-24T00:00:00Z', 3), days);
  });

  test('what comes again and again follows the time that passes', () => {
    const steps = (after: string) => ticks('*/30 * * * *', 'Europe/Berlin', after, 6);
    assert.deepEqual(
      steps('2026-10-25T00:00:00Z'),
      ['00:30', '01:00', '01:30', '02:00', '02:30', '03:00'].map((time) => `2026-10-25T${time}`),
    );
    assert.deepEqual(
      steps('2026-03-29T00:00:00Z'),
      ['00:30', '01:00', '01:30', '02:00', '02:30', '03:00'].map((time) => `2026-03-29T${time}`),
    );
  });

  test('midnight comes on a day that begins at one', () => {
    // Cairo goes from 00:00 to 01:00 on 24 April 2026, at 22:00 UTC of the 23rd.
    assert.deepEqual(ticks('0 0 * * *', 'Africa/Cairo', '2026-04-22T12:00:00Z', 3), [
      '2026-04-22T22:00',
      '2026-04-23T22:00',
      '2026-04-24T21:00',
    ]);
  });
});
