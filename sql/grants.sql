-- Functions and views are the way in; the tables behind them belong to the owner of the schema alone.
revoke all on all tables in schema tasklane from public;
revoke all on all functions in schema tasklane from public;
