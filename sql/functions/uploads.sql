create or replace function tasklane.create_upload(p_tenant_id int, p_filename text, p_purpose text, p_mime_type text, p_bytes bigint, p_expires_seconds int default null, p_quota bigint default null)
returns setof tasklane.upload
language plpgsql set search_path = tasklane as $$
-- Announces a file of p_bytes that comes in parts, within an hour. p_expires_seconds and p_quota as in finish_file.
-- Returns  the upload, whose bytes count from now on. Raises TL413 when the file would be over the quota.
begin
  perform check_quota(p_tenant_id, p_bytes, p_quota);
  return query insert into upload (upload_id, tenant_id, filename, purpose, mime_type, bytes, file_expires_seconds, expires_at)
    values (random_id('upload_'), p_tenant_id, p_filename, p_purpose, p_mime_type, p_bytes, p_expires_seconds, now() + interval '1 hour')
    returning *;
end
$$;

create or replace function tasklane.find_upload(p_upload_id text, p_tenant_id int default null) returns setof tasklane.upload
language sql stable set search_path = tasklane as $$
  -- The upload (of that tenant), or nothing.
  select * from upload where upload_id = p_upload_id and (p_tenant_id is null or tenant_id = p_tenant_id)
$$;

create or replace function tasklane.lock_upload(p_upload_id text, p_tenant_id int, p_what text) returns tasklane.upload
language plpgsql set search_path = tasklane as $$
-- An upload whose time is not over, locked to the commit. p_what says what is to be done with it.
-- Raises   TL404 when there is none (of that tenant), TL400 when its time is over.
declare
  v_upload upload;
begin
  select * into v_upload from upload where upload_id = p_upload_id and (p_tenant_id is null or tenant_id = p_tenant_id) for update;
  if not found then
    raise exception using errcode = 'TL404', column = 'id', message = format('No such Upload object: %s', p_upload_id);
  end if;
  if v_upload.status = 'expired' or v_upload.status = 'pending' and v_upload.expires_at <= now() then
    raise exception using errcode = 'TL400', message = format('Cannot %s an upload with status ''expired''.', p_what);
  end if;
  return v_upload;
end
$$;

create or replace function tasklane.check_takes_parts(p_upload_id text, p_tenant_id int default null) returns tasklane.upload
language plpgsql set search_path = tasklane as $$
-- The upload, locked to the commit. Raises TL404 when there is none (of that tenant), TL400 when it takes no parts any more.
declare
  v_upload upload := lock_upload(p_upload_id, p_tenant_id, 'add a part to');
begin
  if v_upload.status <> 'pending' then
    raise exception using errcode = 'TL400', message = format('Cannot add a part to an upload with status ''%s''.', v_upload.status);
  end if;
  return v_upload;
end
$$;

create or replace function tasklane.add_part(p_upload_id text, p_tenant_id int, p_file_number bigint) returns setof tasklane.upload_part
language plpgsql set search_path = tasklane as $$
-- Makes a file that is complete but not finished a part of an upload. Clients send a part up to three times when replies get lost, so the parts may have three
-- times the bytes that were announced.
-- Returns  the part. Raises as check_takes_parts, TL400 when the upload has too many parts or bytes, TL409 when the file is gone.
-- Touches  upload (locked), upload_part (insert).
declare
  v_upload upload := check_takes_parts(p_upload_id, p_tenant_id);
  v_bytes bigint;
  v_parts record;
begin
  select bytes into v_bytes from file where file_number = p_file_number and not ready and deleted_at is null for update;
  if not found then
    raise exception using errcode = 'TL409', message = 'the part was removed before it was complete';
  end if;
  select count(*) as count, coalesce(sum(bytes), 0) as bytes into v_parts from upload_part where upload_number = v_upload.upload_number;
  if v_parts.count >= 10000 then
    raise exception using errcode = 'TL400', column = 'data', message = 'An upload may have at most 10000 parts.';
  end if;
  if v_parts.bytes + v_bytes > 3 * v_upload.bytes then
    raise exception using errcode = 'TL400', column = 'data',
      message = format('The parts have more bytes than the %s that the upload was announced with.', v_upload.bytes);
  end if;
  return query insert into upload_part (part_id, upload_number, file_number, bytes)
    values (random_id('part_'), v_upload.upload_number, p_file_number, v_bytes) returning *;
end
$$;

create or replace function tasklane.ordered_parts(p_upload_id text, p_part_ids text[]) returns table (file_number bigint, at bigint, bytes bigint)
language plpgsql stable set search_path = tasklane as $$
-- The parts of an upload in the order of p_part_ids, each with where in the whole file its first byte is.
-- Raises   TL400 for a part that is repeated or not the upload's, and when they don't have as many bytes as were announced.
#variable_conflict use_column
declare
  v_upload upload;
  v_unknown text;
  v_bytes bigint;
begin
  select * into v_upload from upload where upload_id = p_upload_id;
  if cardinality(p_part_ids) > (select count(distinct i) from unnest(p_part_ids) i) then
    raise exception using errcode = 'TL400', column = 'part_ids', message = 'Invalid ''part_ids'': a part is named more than once.';
  end if;
  select i into v_unknown from unnest(p_part_ids) i
  where not exists (select from upload_part p where p.part_id = i and p.upload_number = v_upload.upload_number) limit 1;
  if found then
    raise exception using errcode = 'TL400', column = 'part_ids', message = format('Invalid ''part_ids'': this upload has no part ''%s''.', v_unknown);
  end if;
  v_bytes := (select coalesce(sum(bytes), 0) from upload_part where part_id = any(p_part_ids));
  if v_bytes <> v_upload.bytes then
    raise exception using errcode = 'TL400', column = 'part_ids',
      message = format('The parts have %s bytes in all, but the upload was announced with %s.', v_bytes, v_upload.bytes);
  end if;
  return query
    select p.file_number, (sum(p.bytes) over (order by i.nth) - p.bytes)::bigint, p.bytes
    from unnest(p_part_ids) with ordinality i(part_id, nth) join upload_part p using (part_id) order by i.nth;
end
$$;

create or replace function tasklane.complete_upload(p_upload_id text, p_tenant_id int, p_part_ids text[]) returns setof tasklane.upload
language plpgsql set search_path = tasklane as $$
-- Makes a file of the parts, in the order of p_part_ids; the other parts are dropped. No bytes are copied: the parts' chunks become the file's. Once more with
-- the same parts changes nothing.
-- Returns  the upload, with the file's number. Raises TL404 when there is none (of that tenant); TL400 when it is cancelled, expired, or completed with other
-- parts, and as ordered_parts.
-- Touches  upload (update), file (insert, delete), file_chunk (update: what they are in, and where).
declare
  v_upload upload := lock_upload(p_upload_id, p_tenant_id, 'complete');
  v_parts bigint[];
  v_starts bigint[];
begin
  if v_upload.status <> 'pending' and v_upload.part_ids is distinct from p_part_ids then
    raise exception using errcode = 'TL400', message = format('Cannot complete an upload with status ''%s''.', v_upload.status);
  end if;
  if v_upload.status = 'pending' then
    select array_agg(file_number), array_agg(at) into v_parts, v_starts from ordered_parts(p_upload_id, p_part_ids);
    insert into file (file_id, tenant_id, filename, purpose, bytes, ready, expires_at)
    values (random_id('file-'), v_upload.tenant_id, v_upload.filename, v_upload.purpose, v_upload.bytes, true,
            file_expiry(v_upload.purpose, now(), v_upload.file_expires_seconds))
    returning file_number into v_upload.file_number;
    update file_chunk c set file_number = v_upload.file_number, at = p.start + c.at
    from unnest(v_parts, v_starts) p(file_number, start) where c.file_number = p.file_number;
    delete from file where file_number = any(v_parts);
    perform drop_parts(v_upload.upload_number);
    update upload set status = 'completed', part_ids = p_part_ids, file_number = v_upload.file_number where upload_number = v_upload.upload_number;
  end if;
  return query select * from upload where upload_number = v_upload.upload_number;
end
$$;

create or replace function tasklane.cancel_upload(p_upload_id text, p_tenant_id int default null) returns setof tasklane.upload
language plpgsql set search_path = tasklane as $$
-- Gives up an upload with all its parts. Once more changes nothing.
-- Returns  the upload. Raises TL404 when there is none (of that tenant), TL400 when it is completed or expired.
-- Touches  upload (update), file (update: the parts' deleted_at).
declare
  v_upload upload := lock_upload(p_upload_id, p_tenant_id, 'cancel');
begin
  if v_upload.status = 'completed' then
    raise exception using errcode = 'TL400', message = 'Cannot cancel an upload with status ''completed''.';
  end if;
  perform drop_parts(v_upload.upload_number);
  return query update upload set status = 'cancelled' where upload_number = v_upload.upload_number returning *;
end
$$;

create or replace function tasklane.drop_parts(p_upload_number bigint) returns bigint
language sql set search_path = tasklane as $$
  -- Leaves the bytes of an upload's parts to tidy_files. Returns its number.
  update file f set deleted_at = now() from upload_part p
  where p.upload_number = p_upload_number and f.file_number = p.file_number and f.deleted_at is null;
  select p_upload_number
$$;
