create or replace function tasklane.dead_rows() returns table (table_name text, dead bigint)
language sql stable set search_path = tasklane as $$
  -- How many deleted rows still lie in each table whose rows live for seconds, as Postgres has counted them.
  select s.relname::text, s.n_dead_tup from pg_stat_user_tables s
  where s.schemaname = 'tasklane' and s.relname in ('ready', 'running', 'deferred', 'lane_tally', 'batch_tally', 'event_stage')
$$;
