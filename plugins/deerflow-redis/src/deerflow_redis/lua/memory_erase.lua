-- Removes everything of a user, the revision too.
-- KEYS[1] user  KEYS[2] bodies  KEYS[3] facts  KEYS[4] ids
-- Returns how many of the keys were there

return redis.call('UNLINK', unpack(KEYS))
