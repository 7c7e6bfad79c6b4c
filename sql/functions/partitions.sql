create or replace function tasklane.make_partitions(p_days int default 7) returns void
language plpgsql set search_path = tasklane set lock_timeout = '500ms' as $$
-- Makes the daily partitions of task, result, task_event and task_attempt for today and p_days ahead, where they are missing. A day's
-- rows that fell into the default partition meanwhile move into the new one.
-- Raises   55P03 when a transaction stands in the way for half a second: everyone would queue up behind us, and two in a knot (less than
--          deadlock_timeout: it is we who give way). Nothing is changed then; try again.
declare
  v_day timestamptz;
  v_table text;
  v_name text;
  v_from bigint;
  v_to bigint;
begin
  perform pg_advisory_xact_lock(hashtext('tasklane.make_partitions'));
  for v_day in select generate_series(date_trunc('day', now() at time zone 'UTC'),
                                      date_trunc('day', now() at time zone 'UTC') + make_interval(days => p_days), '1 day') at time zone 'UTC' loop
    foreach v_table in array array['task', 'result', 'task_event', 'task_attempt'] loop
      v_name := v_table || to_char(v_day at time zone 'UTC', '_YYYYMMDD');
      continue when to_regclass('tasklane.' || v_name) is not null;
      v_from := first_id_of(v_day);
      v_to := first_id_of(v_day + interval '24 hours');
      if v_day < now() + interval '1 hour' then
        -- Rows of this day may be on their way into the default partition: they would make the attachment fail, or fail themselves.
        execute format('lock table only %I in share mode', v_table);
      end if;
      execute format('create table %I (like %I including all)', v_name, v_table);
      execute format('with gone as (delete from %I where id >= %s and id < %s returning *) insert into %I select * from gone',
                     v_table || '_default', v_from, v_to, v_name);
      -- attached, not created as a partition: that would lock out every put meanwhile
      execute format('alter table %I attach partition %I for values from (%s) to (%s)', v_table, v_name, v_from, v_to);
    end loop;
  end loop;
end
$$;
