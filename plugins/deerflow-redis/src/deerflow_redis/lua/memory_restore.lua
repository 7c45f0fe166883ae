-- Stores one part of a user's memory with its revisions and times, if nothing else is there; decides as
-- `deerflow_backends.records.Part.is_new` does.
-- KEYS[1] user  KEYS[2] bodies  KEYS[3] facts  KEYS[4] ids
-- ARGV[1] the part  ARGV[2] the user's revision  ARGV[3] the user's time in microseconds since 1970
-- ARGV[4] the body's record, '' for none  ARGV[5...] each fact's field and record
-- Returns 1 if it was stored, 0 if exactly this was there, -1 if something else is

local part, body = ARGV[1], ARGV[4]
if is_torn() then -- which raises here, not half-way, if something else has the name of a key
  return torn()
end
local count = redis.call('ZLEXCOUNT', KEYS[4], bounds(part))
local user = redis.call('HMGET', KEYS[1], 'revision', 'updated_at')
local stored = redis.call('HGET', KEYS[2], part) or ''
if user[1] then
  if user[1] ~= ARGV[2] or user[2] ~= ARGV[3] then
    return -1
  end
  local is_same = stored == body and count == (#ARGV - 4) / 2
  for at = 5, #ARGV, 2 do
    is_same = is_same and redis.call('HGET', KEYS[3], ARGV[at]) == ARGV[at + 1]
  end
  if is_same then
    return 0
  elseif stored ~= '' or count > 0 then
    return -1
  end
end

redis.call('HSET', KEYS[1], 'revision', ARGV[2], 'updated_at', ARGV[3])
if body ~= '' then
  redis.call('HSET', KEYS[2], part, body)
end
for at = 5, #ARGV, 2 do
  redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1])
  redis.call('ZADD', KEYS[4], 0, ARGV[at])
end
return 1
