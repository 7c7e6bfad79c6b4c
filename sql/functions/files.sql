create or replace function tasklane.random_id(p_prefix text, p_length int default 22) returns text
language plpgsql volatile set search_path = tasklane as $$
-- An id that nobody can guess: the prefix and p_length characters of 0-9A-Za-z, from the random numbers of Postgres' uuids.
declare
  v_chars constant text := '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
  v_id text := '';
  v_random bytea;
begin
  while length(v_id) < p_length loop
    -- A uuid has fixed bits; the hash of three has 256 random ones. Of a byte's 256 values the last 8 are left out: 248 is 4 × 62.
    v_random := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
    v_id := v_id || (
      select coalesce(string_agg(substr(v_chars, get_byte(v_random, i) % 62 + 1, 1), ''), '')
      from generate_series(0, 31) i where get_byte(v_random, i) < 248);
  end loop;
  return p_prefix || left(v_id, p_length);
end
$$;

create or replace function tasklane.begin_file(p_tenant_id int, p_filename text, p_purpose text default null) returns bigint
language sql set search_path = tasklane as $$
  -- A file that append_chunk fills and finish_file shows; until then nobody sees it. One that is not written to for an hour is removed, unless it
  -- is the output_file or error_file of a batch that has not ended.
  -- Returns  its file_number.
  insert into file (file_id, tenant_id, filename, purpose) values (random_id('file-'), p_tenant_id, p_filename, p_purpose) returning file_number
$$;

create or replace function tasklane.append_chunk(p_file_number bigint, p_bytes bytea) returns bigint
language plpgsql set search_path = tasklane as $$
-- Writes bytes at the end of a file that is not finished, as a chunk of their own: about 1 MiB is a good size.
-- Returns  how many bytes the file has now. Raises TL409 when it is finished, or gone.
-- Touches  file (update: bytes, touched_at), file_chunk (insert).
declare
  v_bytes bigint;
begin
  -- First the file's row: from here on nobody removes or finishes it.
  update file set bytes = bytes + octet_length(p_bytes), touched_at = now()
  where file_number = p_file_number and not ready and deleted_at is null returning bytes into v_bytes;
  if not found then
    raise exception using errcode = 'TL409', message = 'the file is finished or was removed: nothing can be added to it';
  end if;
  if octet_length(p_bytes) > 0 then
    insert into file_chunk (file_number, at, bytes) values (p_file_number, v_bytes - octet_length(p_bytes), p_bytes);
  end if;
  return v_bytes;
end
$$;

create or replace function tasklane.finish_file(p_file_number bigint, p_purpose text default null, p_expires_seconds int default null, p_quota bigint default null)
returns setof tasklane.file
language plpgsql set search_path = tasklane as $$
-- Shows a file that is complete: from now on it can be found, and never changes. p_expires_seconds count from its created_at; without them a file
-- of purpose batch expires after 30 days and others never. p_quota is how many bytes its tenant may have in files, this one included; null: any.
-- Returns  the file; a second call gives it again. Raises TL413 when it is over the quota, TL409 when it is gone.
-- Touches  file (update).
declare
  v_file file;
begin
  select * into v_file from file where file_number = p_file_number and deleted_at is null for update;
  if not found then
    raise exception using errcode = 'TL409', message = 'the file was removed before it was complete';
  end if;
  if not v_file.ready then
    perform check_quota(v_file.tenant_id, v_file.bytes, p_quota);
    update file f set ready = true, purpose = coalesce(p_purpose, f.purpose),
      expires_at = file_expiry(coalesce(p_purpose, f.purpose), f.created_at, p_expires_seconds)
    where file_number = p_file_number;
  end if;
  return query select * from file where file_number = p_file_number;
end
$$;

create or replace function tasklane.file_expiry(p_purpose text, p_created_at timestamptz, p_seconds int) returns timestamptz
language sql stable as $$
  -- When a file expires; null: never.
  select p_created_at + make_interval(secs => coalesce(p_seconds, case when p_purpose = 'batch' then 30 * 86400 end))
$$;

create or replace function tasklane.is_live(f tasklane.file) returns boolean
language sql stable as $$
  -- Whether a file can be read: it is complete, and neither deleted nor expired.
  select f.ready and f.deleted_at is null and (f.expires_at is null or f.expires_at > now())
$$;

create or replace function tasklane.tenant_file_bytes(p_tenant_id int) returns bigint
language sql stable set search_path = tasklane as $$
  -- How many bytes a tenant has in files, and has announced to upload in parts.
  select (select coalesce(sum(f.bytes), 0) from file f where f.tenant_id = p_tenant_id and is_live(f))::bigint
       + (select coalesce(sum(u.bytes), 0) from upload u where u.tenant_id = p_tenant_id and u.status = 'pending' and u.expires_at > now())::bigint
$$;

create or replace function tasklane.check_quota(p_tenant_id int, p_bytes bigint, p_quota bigint) returns void
language plpgsql set search_path = tasklane as $$
-- Judges whether a tenant may have p_bytes more in files, under a lock that is held to the commit: so the quota is exact over all servers.
-- Raises   TL413 when it may not.
begin
  if p_quota is not null then
    perform pg_advisory_xact_lock(hashtext('tasklane.files'), p_tenant_id);
    if p_bytes + tenant_file_bytes(p_tenant_id) > p_quota then
      raise exception using errcode = 'TL413', message = format('File quota exceeded: your files may have %s bytes in all. Delete some first.', p_quota);
    end if;
  end if;
end
$$;

create or replace function tasklane.drop_file(p_file_number bigint) returns void
language sql set search_path = tasklane as $$
  -- Gives up a file that is not finished; tidy_files removes it.
  update file set deleted_at = now() where file_number = p_file_number and not ready and deleted_at is null
$$;

create or replace function tasklane.find_file(p_file_id text, p_tenant_id int default null) returns setof tasklane.file
language sql stable set search_path = tasklane as $$
  -- The file (of that tenant), or nothing.
  select * from file f where f.file_id = p_file_id and (p_tenant_id is null or f.tenant_id = p_tenant_id) and is_live(f)
$$;

create or replace function tasklane.delete_file(p_file_id text, p_tenant_id int default null) returns setof bigint
language sql set search_path = tasklane as $$
  -- Hides a file (of that tenant) at once; tidy_files removes it when no batch reads it any more. Whoever makes a batch of a file holds its row FOR
  -- SHARE: this then waits, and so nothing is removed that the batch is to read.
  -- Returns  its file_number, or nothing when there is no such file.
  update file f set deleted_at = now()
  where f.file_id = p_file_id and (p_tenant_id is null or f.tenant_id = p_tenant_id) and is_live(f) returning file_number
$$;

create or replace function tasklane.list_files(p_tenant_id int default null, p_purpose text default null, p_after bigint default null, p_descending boolean default true, p_limit int default 20)
returns setof tasklane.file
language plpgsql stable set search_path = tasklane set plan_cache_mode = force_custom_plan as $$
-- Files, the newest or the oldest first, those beyond p_after (a file_number).
begin
  if p_descending then
    return query select * from file f
      where (p_tenant_id is null or f.tenant_id = p_tenant_id) and (p_purpose is null or f.purpose = p_purpose)
        and (p_after is null or f.file_number < p_after) and is_live(f)
      order by f.file_number desc limit p_limit;
  else
    return query select * from file f
      where (p_tenant_id is null or f.tenant_id = p_tenant_id) and (p_purpose is null or f.purpose = p_purpose)
        and (p_after is null or f.file_number > p_after) and is_live(f)
      order by f.file_number limit p_limit;
  end if;
end
$$;

create or replace function tasklane.read_chunk(p_file_number bigint, p_at bigint) returns table (at bigint, bytes bytea)
language sql stable set search_path = tasklane as $$
  -- The chunk that has the byte p_at of a file, finished or not; nothing beyond the end.
  select c.at, c.bytes
  from (select k.at, k.bytes from file_chunk k where k.file_number = p_file_number and k.at <= p_at order by k.at desc limit 1) c
  where c.at + octet_length(c.bytes) > p_at
$$;

create or replace function tasklane.read_pieces(p_file_number bigint, p_at bigint) returns table (at bigint, bytes bytea)
language sql stable set search_path = tasklane as $$
  -- The same in pieces of 32 KiB, in order: a chunk as a whole would cost the server eight times its size, as it comes in and is put together.
  select c.at + n, substr(c.bytes, n + 1, 32768)
  from read_chunk(p_file_number, p_at) c cross join generate_series(0, octet_length(c.bytes) - 1, 32768) n order by n
$$;

create or replace function tasklane.batch_reads(p_file_number bigint) returns boolean
language sql stable set search_path = tasklane as $$
  -- Whether some batch has still to read this file.
  select exists (
    select from batch where input_file = p_file_number and not expanded
      and (status = 'validating' or total > 0 and status in ('in_progress', 'finalizing', 'cancelling')))
$$;
