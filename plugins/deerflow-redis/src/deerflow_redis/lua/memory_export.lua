-- Reads all of a user's memory, as it is at one moment.
-- KEYS[1] user  KEYS[2] bodies  KEYS[3] facts  KEYS[4] ids
-- Returns {{the user's revision and time in microseconds since 1970, false if never written}, {each body's part and
--   record}, {each fact's field and record}}

if is_torn() then
  return torn()
end
return {
  redis.call('HMGET', KEYS[1], 'revision', 'updated_at'),
  redis.call('HGETALL', KEYS[2]),
  redis.call('HGETALL', KEYS[3])
}
