-- Removes one part of a user's memory, or all parts; the user's revision remains.
-- KEYS[1] user  KEYS[2] bodies  KEYS[3] facts  KEYS[4] ids
-- ARGV[1] the part, '' for all
-- Returns the user's revision afterwards: raised by 1 if anything was there

local part = ARGV[1]
local first, past = bounds(part)
local fields = {}
local is_there = redis.call('HLEN', KEYS[2]) + redis.call('HLEN', KEYS[3]) + redis.call('ZCARD', KEYS[4]) > 0
if part ~= '' then
  fields = redis.call('ZRANGE', KEYS[4], first, past, 'BYLEX')
  is_there = #fields > 0 or redis.call('HEXISTS', KEYS[2], part) == 1
end

local revision = redis.call('HGET', KEYS[1], 'revision') or '0'
if not string.find(revision, '^%d+$') then
  return corrupt(KEYS[1])
end
if not is_there then
  return revision
end
-- First what makes room: a server whose memory is full lets a script write once it has removed something.
if part == '' then
  redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4])
else
  redis.call('HDEL', KEYS[2], part)
  redis.call('ZREMRANGEBYLEX', KEYS[4], first, past)
  for at = 1, #fields, 1000 do
    redis.call('HDEL', KEYS[3], unpack(fields, at, math.min(at + 999, #fields)))
  end
end
redis.call('HINCRBY', KEYS[1], 'revision', 1)
redis.call('HSET', KEYS[1], 'updated_at', now())
return redis.call('HGET', KEYS[1], 'revision') -- as text
