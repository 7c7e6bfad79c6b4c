create or replace function tasklane.send_webhooks(p_tenant_id int, p_type text, p_data json) returns void language sql as $$
  -- stub
  select $$;
