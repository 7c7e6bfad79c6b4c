create or replace function tasklane.random_id(p_prefix text, p_length int default 22) returns text language sql volatile as $$
  select p_prefix || left(translate(encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64'), '+/=', ''), p_length) $$;
create or replace function tasklane.append_chunk(p_file_number bigint, p_bytes bytea) returns void language sql set search_path = tasklane as $$
  insert into file_chunk select p_file_number, f.bytes, p_bytes from file f where f.file_number = p_file_number;
  update file set bytes = bytes + length(p_bytes), touched_at = now() where file_number = p_file_number $$;
create or replace function tasklane.send_webhooks(p_tenant_id int, p_type text, p_data json) returns void language sql as $$ select $$;
