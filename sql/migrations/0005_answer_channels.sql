-- Where a server hears of answers to its clients. Anyone who may connect can LISTEN and NOTIFY, so a channel that carries more than ids has a name that
-- can't be guessed; a server makes a new one whenever it starts. Null: it has none.
alter table tasklane.instance add answer_channel text;
