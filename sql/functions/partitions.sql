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

create or replace function tasklane.longest_retention() returns interval
language sql stable set search_path = tasklane as $$
  -- The longest age that any queue keeps finished tasks to. A deleted queue counts as long as it can have any.
  select coalesce(max(make_interval(secs => q.retention_seconds)), interval '0')
  from queue q where q.deleted_at is null or q.deleted_at > now() - make_interval(secs => q.retention_seconds)
$$;

create or replace function tasklane.is_day_over(p_day date) returns boolean
language plpgsql stable set search_path = tasklane set enable_seqscan = off as $$
-- Whether nothing of a day's tasks (UTC) is needed any more: none is in ready, running or deferred, none has a callback still to send or is a line
-- of a batch that has not ended, and none ended within the longest retention of all queues.
declare
  v_first bigint := first_id_of(p_day::timestamp at time zone 'UTC');
  v_next bigint := first_id_of((p_day + 1)::timestamp at time zone 'UTC');
  v_young boolean;
begin
  -- One statement for all places, since tasks move between them.
  if exists (select from running r where r.id >= v_first and r.id < v_next)
     or exists (select from deferred d where d.id >= v_first and d.id < v_next)
     or exists (select from lane l cross join lateral lane_ranks(l.lane_id) k(rank)
                where exists (select from ready w where w.lane_id = l.lane_id and w.rank = k.rank and w.id >= v_first and w.id < v_next))
     or exists (select from callback_delivery d where d.task_id >= v_first and d.task_id < v_next and d.status = 'pending')
     -- Its lines are of the day it was made, or the next one.
     or exists (select from batch b where b.batch_id >= v_first - 864000000000000 and b.batch_id < v_next
                and b.status in ('validating', 'in_progress', 'finalizing', 'cancelling')) then
    return false;
  end if;
  -- In the partition, not by a range of ids: it has an index of ends.
  execute format('select exists (select from %I r where r.completed_at > $1)', 'result' || to_char(p_day, '_YYYYMMDD'))
    into v_young using now() - longest_retention();
  return not v_young;
end
$$;

create or replace function tasklane.drop_old_partitions() returns date
language plpgsql set search_path = tasklane set lock_timeout = '200ms' as $$
-- Drops the partitions of the oldest day before today (UTC) that is over (see is_day_over) and whose tasks have all ended: one day a call,
-- for everyone waits until the call commits.
-- Returns  the day; null when there is none, or another call is at it. A day whose tables a transaction holds is passed over, for the next
--          time. Four locks that are each waited for so shortly stay below deadlock_timeout: it is we who give way.
declare
  v_day date;
  v_suffix text;
  v_table text;
  v_lost boolean;
begin
  if not pg_try_advisory_xact_lock(hashtext('tasklane.drop_old_partitions')) then
    return null;
  end if;
  for v_day in
    select to_date(right(c.relname, 8), 'YYYYMMDD') from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'tasklane.result'::regclass and c.relname ~ '^result_\d{8}$'
      and right(c.relname, 8) < to_char(now() at time zone 'UTC', 'YYYYMMDD')
    order by 1
  loop
    continue when not is_day_over(v_day);
    v_suffix := to_char(v_day, '_YYYYMMDD');
    -- Dear, so before the lock: a task that has its result can lose it only to a life in ready, running or deferred.
    execute format('select exists (select from %I t where not exists (select from %I r where r.id = t.id))', 'task' || v_suffix, 'result' || v_suffix)
      into v_lost;
    continue when v_lost;
    begin
      -- Whoever replays, takes back or ends a task has these first: what is_day_over says now stays true.
      lock table only task, only result, only task_event, only task_attempt in access exclusive mode;
      if is_day_over(v_day) then
        foreach v_table in array array['task', 'result', 'task_event', 'task_attempt'] loop
          -- A table that is younger than the day has the day's rows in its default partition.
          if to_regclass('tasklane.' || v_table || v_suffix) is null then
            execute format('delete from %I where id >= %s and id < %s', v_table || '_default',
                           first_id_of(v_day::timestamp at time zone 'UTC'), first_id_of((v_day + 1)::timestamp at time zone 'UTC'));
          else
            execute format('drop table %I', v_table || v_suffix);
          end if;
        end loop;
        return v_day;
      end if;
      raise exception using errcode = 'TL409', message = 'a task of the day lives again';
    exception when lock_not_available or sqlstate 'TL409' then
      null;  -- and the locks are let go of
    end;
  end loop;
  return null;
end
$$;
