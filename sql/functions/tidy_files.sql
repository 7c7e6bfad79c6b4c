create or replace function tasklane.tidy_files(p_limit int default 100, p_idle interval default '1 hour') returns int
language plpgsql set search_path = tasklane as $$
-- Removes, up to p_limit of each: the chunks of files that were deleted or given up or have expired, unless a batch has still to read them; files that were
-- begun and not written to for p_idle, which neither a pending upload nor a batch waits for; uploads whose hour is over, with their parts. What a deleted
-- file was called stays known for p_idle, so that a list can go on after it. Servers don't wait for each other here.
-- Returns  how much was done; 0: nothing for now.
-- Touches  file, upload (update, delete), file_chunk, upload_part (delete).
declare
  v_all int := 0;
  v_some int;
begin
  with due as materialized (
    select upload_number from upload where status = 'pending' and expires_at <= now() order by expires_at limit p_limit for update skip locked
  ), expired as (
    update upload u set status = 'expired' from due d where u.upload_number = d.upload_number returning u.upload_number
  )
  select count(drop_parts(upload_number)) into v_some from expired;
  v_all := v_all + v_some;

  with due as materialized (
    select file_number from file where deleted_at is null and expires_at <= now() order by expires_at limit p_limit for update skip locked
  )
  update file f set deleted_at = now() from due d where f.file_number = d.file_number;
  get diagnostics v_some = row_count;
  v_all := v_all + v_some;

  with idle as materialized (
    select f.file_number from file f
    where not f.ready and f.deleted_at is null and f.touched_at < now() - p_idle
      and not exists (select from upload_part p join upload u using (upload_number) where p.file_number = f.file_number and u.status = 'pending')
      and not exists (select from batch b where b.status in ('validating', 'in_progress', 'finalizing', 'cancelling') and f.file_number in (b.output_file, b.error_file))
    order by f.touched_at limit p_limit for update skip locked
  )
  update file f set deleted_at = now() from idle i where f.file_number = i.file_number;
  get diagnostics v_some = row_count;
  v_all := v_all + v_some;

  with gone as materialized (
    select f.file_number from file f
    where f.deleted_at is not null and exists (select from file_chunk c where c.file_number = f.file_number) and not batch_reads(f.file_number)
    order by f.deleted_at limit p_limit for update skip locked
  ), slice as materialized (
    select c.file_number, c.at from gone g join file_chunk c using (file_number) limit p_limit
  )
  delete from file_chunk c using slice s where c.file_number = s.file_number and c.at = s.at;
  get diagnostics v_some = row_count;
  v_all := v_all + v_some;

  with gone as materialized (
    select f.file_number from file f
    where f.deleted_at is not null and (f.deleted_at < now() - p_idle or not f.ready)
      and not exists (select from file_chunk c where c.file_number = f.file_number)
    order by f.deleted_at limit p_limit for update skip locked
  )
  delete from file f using gone g where f.file_number = g.file_number;
  get diagnostics v_some = row_count;
  v_all := v_all + v_some;

  with gone as materialized (
    select upload_number from upload where status <> 'pending' and expires_at < now() - p_idle order by expires_at limit p_limit for update skip locked
  ), parts as (
    delete from upload_part p using gone g where p.upload_number = g.upload_number
  )
  -- The parts go with it at the end of this call: the key to the upload is checked then.
  delete from upload u using gone g where u.upload_number = g.upload_number;
  get diagnostics v_some = row_count;
  return v_all + v_some;
end
$$;
