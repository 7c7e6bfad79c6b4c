-- A login for lists and statistics: it sees every view, and payloads, but no secret. Run as the owner of schema tasklane on the primary,
-- and again after every upgrade, which makes views and functions anew. Set its password with \password grafana.
do $do$
begin
  create role grafana login;
exception when duplicate_object then
  null;
end
$do$;
grant usage on schema tasklane to grafana;
grant select on all tables in schema tasklane to grafana;
revoke select on tasklane.api_key, tasklane.tenant, tasklane.webhook_endpoint, tasklane.instance from grafana;
-- They run with the rights of who calls them, so those that write still can't.
grant execute on all functions in schema tasklane to grafana;
