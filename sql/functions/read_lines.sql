create or replace function tasklane.read_lines(p_file_number bigint, p_from bigint, p_max_bytes int)
returns table (ends bigint, line text)
language plpgsql stable set search_path = tasklane as $$
-- The lines of a file of UTF-8 from byte p_from on, which begins one, about a chunk of them: the text without its line break, and the byte after
-- that. A line longer than p_max_bytes is null. None: the file has no more. (As text they come to the server at their length; as bytes they
-- would come in hexadecimal, and cost it six times the memory.)
#variable_conflict use_column
declare
  v_at bigint := p_from;
  v_chunk record;
  v_part bytea;
  v_bytes bytea := '';
  v_whole int;                                          -- how many of the bytes are whole characters
  v_lines text[];
  v_long boolean := false;
begin
  loop
    select c.at, c.bytes into v_chunk from read_chunk(p_file_number, v_at) c;
    if not found then
      -- The last line may lack its line break.
      if octet_length(v_bytes) > 0 then
        return query select v_at, case when not v_long and octet_length(v_bytes) <= p_max_bytes then text_of(v_bytes) end;
      end if;
      return;
    end if;
    v_part := substr(v_chunk.bytes, (v_at - v_chunk.at)::int + 1);
    v_at := v_chunk.at + octet_length(v_chunk.bytes);
    if position('\x0a'::bytea in v_part) = 0 then
      v_long := v_long or octet_length(v_bytes) + octet_length(v_part) > p_max_bytes;
      v_bytes := case when v_long then '\x20' else v_bytes || v_part end;
      continue;
    end if;
    if v_long then
      return query select v_at - octet_length(v_part) + position('\x0a'::bytea in v_part), null::text;
      return;
    end if;

    v_bytes := v_bytes || v_part;
    v_whole := octet_length(v_bytes);
    for n in 1..least(3, octet_length(v_bytes)) loop
      if get_byte(v_bytes, octet_length(v_bytes) - n) >= 192 then
        v_whole := octet_length(v_bytes) - n;
      end if;
      exit when get_byte(v_bytes, octet_length(v_bytes) - n) not between 128 and 191;
    end loop;
    v_lines := string_to_array(text_of(substr(v_bytes, 1, v_whole)), E'\n');
    return query
    select v_at - octet_length(v_bytes) + sum(octet_length(l.line) + 1) over (order by l.nth),
           case when octet_length(l.line) <= p_max_bytes then l.line end
    from unnest(v_lines[:cardinality(v_lines) - 1]) with ordinality as l(line, nth);
    return;
  end loop;
end
$$;

create or replace function tasklane.text_of(p_bytes bytea) returns text
language plpgsql immutable as $$
-- The text of UTF-8. A NUL can't be in one: what stands in its place is as little JSON, so its line is found faulty.
begin
  return convert_from(p_bytes, 'UTF8');
exception when character_not_in_repertoire then
  return convert_from(decode(replace(encode(p_bytes, 'escape'), '\000', '\037'), 'escape'), 'UTF8');
end
$$;
