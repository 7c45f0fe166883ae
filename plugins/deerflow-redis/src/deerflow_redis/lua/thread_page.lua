-- Look at some threads, the last of a sorted set first, and give those whole that have the wanted metadata.
--
-- KEYS[1] what the keys of all threads begin with  KEYS[2] the sorted set, whose members end with ids
-- ARGV[1] the metadata field that pins where it is 'true'
-- ARGV[2] the member to go on after, '' for all  ARGV[3] where in a member the id begins, from 1
-- ARGV[4] how many threads to look at  ARGV[5] how many to give whole, at most
-- ARGV[6] after how many bytes of them to stop  ARGV[7...] the wanted metadata: fields, each with its value
-- Returns 1 if none follow, else 0; then of each thread its member and all that it holds, nothing if it lacks something

local after, begin, many, whole, bytes =
  ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local function matches(key)
  for i = 7, #ARGV, 2 do
    if redis.call('HGET', key, ARGV[i]) ~= ARGV[i + 1] then return false end
  end
  return true
end

-- '(' leaves out the member itself
local from = after == '' and '+' or '(' .. after
local members = redis.call('ZRANGE', KEYS[2], from, '-', 'BYLEX', 'REV', 'LIMIT', 0, many)
local reply = {0}
for number, member in ipairs(members) do
  local id = member:sub(begin)
  local key = thread_key(id)
  if not is_listed(key, id, KEYS[2], member) then
    return redis.error_reply('CORRUPT the thread ' .. id:gsub('%c', '?') .. ' is not stored as it is listed: the server '
      .. 'evicted it, which it must not (maxmemory-policy noeviction); delete the thread, and it is listed no more')
  end
  local contents = matches(key) and redis.call('HGETALL', key) or {}
  if #contents > 0 then
    whole = whole - 1
    for _, part in ipairs(contents) do bytes = bytes - #part end
  end
  reply[2 * number], reply[2 * number + 1] = member, contents
  if number == #members and #members < many then
    reply[1] = 1
  elseif whole <= 0 or bytes <= 0 then
    break
  end
end
if #members == 0 then reply[1] = 1 end
return reply
