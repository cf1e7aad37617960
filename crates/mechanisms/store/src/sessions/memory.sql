-- The generation of the memory in the session's folder; null: what is there is rubbish.
ALTER TABLE sessions ADD COLUMN memory TEXT;
