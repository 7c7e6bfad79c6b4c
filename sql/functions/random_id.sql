create or replace function tasklane.random_id(p_prefix text, p_length int default 22) returns text
language plpgsql volatile as $$
-- p_prefix and p_length random letters and digits.
declare
  v_id text := '';
  v_bytes bytea;
begin
  while length(v_id) < p_length loop
    v_bytes := uuid_send(gen_random_uuid());
    for i in 0..15 loop
      -- Bytes 6 and 8 say what kind of a UUID it is; 248 is the last multiple of 62, beyond which some characters would come more often.
      continue when i in (6, 8) or get_byte(v_bytes, i) >= 248;
      v_id := v_id || substr('0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz', get_byte(v_bytes, i) % 62 + 1, 1);
    end loop;
  end loop;
  return p_prefix || left(v_id, p_length);
end
$$;
