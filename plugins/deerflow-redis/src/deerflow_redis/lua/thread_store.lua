-- Store threads that are not there yet, in order, up to the first whose id is taken by another one.
--
-- KEYS[1] what the keys of all threads begin with
-- ARGV[1] the metadata field that pins where it is 'true'  ARGV[2] '1' if the threads are created now, else '0'
-- ARGV[3...] of each thread: its id; how many arguments follow with its fields, each with its value; these, owner and
-- status first. Of one that is created now the times are left out.
-- Returns how many were stored; now, 8 bytes; which thread met another one, from 1, or 0; and all that this one holds.
-- That one is counted from -1 down instead if the server evicted it, and it is still listed.

-- Whether a thread holds exactly the fields that the arguments from first to last say.
local function same(contents, first, last)
  local held = {}
  for i = 1, #contents, 2 do held[contents[i]] = contents[i + 1] end
  for i = first, last, 2 do
    if held[ARGV[i]] ~= ARGV[i + 1] then return false end
  end
  return #contents == last - first + 1
end

local creating = ARGV[2] == '1'
local present = moment(now())
local stored, position, at = 0, 0, 3
while at <= #ARGV do
  local id, first, last = ARGV[at], at + 2, at + 1 + ARGV[at + 1]
  position, at = position + 1, last + 1
  local key = thread_key(id)
  if redis.call('HLEN', key) == 0 then
    if redis.call('ZSCORE', KEYS[1] .. 'ids', id) then return {stored, present, -position, {}} end
    local orders = orders_of(ARGV[first + 1], ARGV[first + 3])
    call_with('HSET', key, first, last)
    if creating then redis.call('HSET', key, 'created', present, 'updated', present) end
    redis.call('ZADD', KEYS[1] .. 'ids', 0, id)
    list(orders, member_of(id, redis.call('HGET', key, pinning), redis.call('HGET', key, 'updated')))
    stored = stored + 1
  elseif creating then
    return {stored, present, position, {}}
  else
    local contents = redis.call('HGETALL', key)
    if not same(contents, first, last) then return {stored, present, position, contents} end
  end
end
return {stored, present, 0, {}}
