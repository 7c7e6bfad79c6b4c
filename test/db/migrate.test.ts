import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { migrate } from '../../server/db/migrate.ts';
import { testDatabase } from '../support/sql.ts';

const database = await testDatabase();
const db = await database.open();

const applied = () => db.rows('select name, checksum from tasklane.migration order by name');

describe('migrate', () => {
  test('called again returns nothing and changes nothing', async () => {
    const objects = () =>
      db.rows(`select xmin::text, oid from pg_proc where pronamespace = 'tasklane'::regnamespace union all
               select xmin::text, oid from pg_class where relnamespace = 'tasklane'::regnamespace order by 2`);
    const before = await objects();
    assert.deepEqual(await migrate(database.url), []);
    assert.deepEqual(await objects(), before);
  });

  test('called by many at once on an empty database lets one do it all, and agrees', async () => {
    const expected = await applied();
    await db.run('drop schema tasklane cascade');
    const done = await Promise.all(Array.from({ length: 8 }, () => migrate(database.url)));
    assert.deepEqual(
      done.filter((names) => names.length > 0).map((names) => names.toSorted()),
      [expected.map((row) => row.name as string).toSorted()],
    );
    assert.deepEqual(await applied(), expected);
  });

  test('applies functions and views that are not the ones it has, and no migration twice', async () => {
    await db.run("update tasklane.migration set checksum = 'old' where name = 'functions/take_fifo.sql'");
    await db.run('drop function tasklane.take_fifo');
    assert.deepEqual(await migrate(database.url), ['functions/take_fifo.sql']);
    assert.equal(await db.value("select count(*)::int from pg_proc where proname = 'take_fifo'"), 1);
  });

  test('refuses a migration that was edited after it had been applied', async () => {
    const [name, checksum] = await db.value<string[]>(
      "select array[name, checksum] from tasklane.migration where name like 'migrations/%' order by name limit 1",
    );
    await db.run("update tasklane.migration set checksum = 'edited' where name = $1", [name]);
    await assert.rejects(migrate(database.url), (error: Error) => error.message.includes(`${name} was changed`));
    await db.run('update tasklane.migration set checksum = $2 where name = $1', [name, checksum]);
    assert.deepEqual(await migrate(database.url), []);
  });

  test('refuses a database that a newer version has migrated', async () => {
    await db.run("insert into tasklane.migration (name, checksum) values ('migrations/9999_later.sql', '')");
    await assert.rejects(migrate(database.url), /9999_later/);
    await db.run("delete from tasklane.migration where name = 'migrations/9999_later.sql'");
  });

  test('names the file in which the SQL is wrong, and leaves all as it was', async () => {
    await db.run("update tasklane.migration set checksum = 'old' where name = 'functions/take_fifo.sql'");
    await db.run('alter table tasklane.lane_tally rename to moved_away');
    const before = await applied();
    await assert.rejects(migrate(database.url), /sql\/views\/queue_stats\.sql: .*lane_tally/);
    assert.deepEqual(await applied(), before);
    await db.run('alter table tasklane.moved_away rename to lane_tally');
    await migrate(database.url);
  });

  test('may change what functions take and return, and leaves no old one beside the new', async () => {
    const functions = () =>
      db.rows(
        "select oid::regprocedure::text as name, prorettype from pg_proc where pronamespace = 'tasklane'::regnamespace order by 1",
      );
    const before = await functions();
    await db.run("update tasklane.migration set checksum = 'old' where name = 'functions/take_fifo.sql'");
    await db.run('alter function tasklane.task_state(bigint) rename to moved_away');
    await db.run('create function tasklane.task_state(p_id bigint) returns int language sql as $$ select 1 $$');
    await db.run(
      'create function tasklane.task_state(p_id bigint, p_more int) returns int language sql as $$ select 1 $$',
    );
    await migrate(database.url);
    assert.deepEqual(await functions(), before);
  });
});

describe('schema tasklane', () => {
  test('has a comment on every function and view', async () => {
    assert.deepEqual(
      await db.rows(
        `select oid::regprocedure::text as name from pg_proc
         where pronamespace = 'tasklane'::regnamespace and coalesce(obj_description(oid, 'pg_proc'), '') !~ '\\w{3}'
         union all
         select oid::regclass::text from pg_class
         where relnamespace = 'tasklane'::regnamespace and relkind = 'v' and coalesce(obj_description(oid, 'pg_class'), '') !~ '\\w{3}'`,
      ),
      [],
    );
  });

  test('raises no errors but those that errors.ts knows', async () => {
    const sources = await db.value<string>(
      "select string_agg(prosrc, '') from pg_proc where pronamespace = 'tasklane'::regnamespace",
    );
    const raised = new Set([...sources.matchAll(/TL\d\d\d/g)].map((match) => match[0]));
    assert.deepEqual([...raised].sort(), ['TL400', 'TL404', 'TL409', 'TL413', 'TL429', 'TL500']);
    const raises = [...sources.matchAll(/\braise\s+exception\b[^;]*/g)].map((match) => match[0]);
    assert.ok(raises.length > 10);
    for (const raise of raises)
      assert.match(raise, /^raise exception using errcode = ('TL\d{3}'|v_(?:put|route)\.code),/);
  });

  test('has no function that anyone may call unasked, nor a table that anyone may read', async () => {
    assert.deepEqual(
      await db.rows(
        `select oid::regprocedure::text as name from pg_proc
         where pronamespace = 'tasklane'::regnamespace and has_function_privilege('public', oid, 'execute')
         union all
         select oid::regclass::text from pg_class
         where relnamespace = 'tasklane'::regnamespace and relkind in ('r', 'v', 'p') and has_table_privilege('public', oid, 'select')`,
      ),
      [],
    );
  });

  test('has payloads compressed with lz4 in every partition, where Postgres can', async () => {
    const [{ can }] = (await db.rows(
      "select 'lz4' = any (enumvals) as can from pg_settings where name = 'default_toast_compression'",
    )) as [{ can: boolean }];
    await db.run('select tasklane.make_partitions(1)');
    const columns = await db.rows(
      `select a.attrelid::regclass::text, attcompression from pg_attribute a
       where (attname = 'data' and attrelid in (select relid from pg_partition_tree('tasklane.task')))
          or (attname = 'body' and attrelid in (select relid from pg_partition_tree('tasklane.result')))`,
    );
    assert.ok(columns.length >= 8);
    for (const column of columns) assert.equal(column.attcompression, can ? 'l' : '', JSON.stringify(column));
  });

  test('is checked by Postgres, function by function', async () => {
    // Applied without a check, since functions name each other and views; here all of them are there.
    const names = await db.value<string[]>(
      "select array_agg(name) from tasklane.migration where name like 'functions/%'",
    );
    for (const name of names) {
      const text = await readFile(new URL(`../../sql/${name}`, import.meta.url), 'utf8');
      await assert.doesNotReject(db.run(`begin; set local check_function_bodies = on; ${text}; rollback`), name);
      await db.run('rollback');
    }
  });
});
