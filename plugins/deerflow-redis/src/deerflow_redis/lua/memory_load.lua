-- Reads one part of a user's memory, as it is at one moment.
-- KEYS[1] user  KEYS[2] bodies  KEYS[3] facts  KEYS[4] ids
-- ARGV[1] the part
-- Returns {the user's revision and time in microseconds since 1970, false if never written; the body's record, false if
--   absent; {the fields of the facts by id}, {their records}...}, at most 1,000 records in one table

if is_torn() then
  return torn()
end
local first, past = bounds(ARGV[1])
local fields = redis.call('ZRANGE', KEYS[4], first, past, 'BYLEX')
local user = redis.call('HMGET', KEYS[1], 'revision', 'updated_at')
local reply = {user[1], user[2], redis.call('HGET', KEYS[2], ARGV[1]), fields}
for at = 1, #fields, 1000 do
  reply[#reply + 1] = redis.call('HMGET', KEYS[3], unpack(fields, at, math.min(at + 999, #fields)))
end
return reply
