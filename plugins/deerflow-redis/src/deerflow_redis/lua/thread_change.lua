-- Change one thread, if it is in scope and as expected and stays small enough.
--
-- KEYS[1] what the keys of all threads begin with
-- ARGV[1] the metadata field that pins where it is 'true'  ARGV[2] the thread's id
-- ARGV[3] whose threads are in scope, as in keys; '*' for all
-- ARGV[4] the status that it must have, as in keys; '' for any
-- ARGV[5] '1' if it is touched, else '0'  ARGV[6] '1' if all its metadata is dropped first, else '0'
-- ARGV[7] how many bytes its metadata may have as JSON
-- ARGV[8] how many arguments follow with what to set: fields, each with its value  ARGV[...] then fields to remove
-- Returns nil if there is none in scope; else now, 8 bytes, and all that it held before. Whoever called knows from that
-- what it holds now, or why nothing was changed.

local id, scope, expected = ARGV[2], ARGV[3], ARGV[4]
local touch, replace = ARGV[5] == '1', ARGV[6] == '1'
local most, first, last = tonumber(ARGV[7]), 9, 8 + ARGV[8]
local key = thread_key(id)

-- The bytes that a field of metadata takes with its value, or nothing if it has none.
local function bytes(field, value_bytes)
  return field:byte() == QUOTE and value_bytes > 0 and #field + value_bytes + 2 or 0
end

-- The bytes that all metadata would have.
local function merged(contents)
  local size = 1  -- both braces, and one comma less than fields
  for i = 1, #contents, 2 do size = size + bytes(contents[i], #contents[i + 1]) end
  for i = first, last, 2 do
    size = size - bytes(ARGV[i], redis.call('HSTRLEN', key, ARGV[i])) + bytes(ARGV[i], #ARGV[i + 1])
  end
  for i = last + 1, #ARGV do size = size - bytes(ARGV[i], redis.call('HSTRLEN', key, ARGV[i])) end
  return size
end

local owner, status, updated, pinned = unpack(redis.call('HMGET', key, 'owner', 'status', 'updated', pinning))
if not owner or (scope ~= '*' and scope ~= owner) then return false end

local high, low = now()
local contents = redis.call('HGETALL', key)
local reply = {moment(high, low), contents}
if expected ~= '' and expected ~= status then return reply end
if not replace and merged(contents) > most then return reply end

local after = {owner = owner, status = status, [pinning] = not replace and pinned or nil}
for i = first, last, 2 do
  if after[ARGV[i]] or ARGV[i] == pinning then after[ARGV[i]] = ARGV[i + 1] end
end
for i = last + 1, #ARGV do after[ARGV[i]] = nil end
after.updated = updated
if touch then
  local next_high, next_low = struct.unpack('>I4I4', updated)
  next_low = next_low + 1
  if next_low == 2 ^ 32 then next_high, next_low = next_high + 1, 0 end
  if high > next_high or (high == next_high and low > next_low) then next_high, next_low = high, low end
  after.updated = moment(next_high, next_low)
end
local orders_before, orders_after = orders_of(owner, status), orders_of(after.owner, after.status)

redis.call('HSET', key, 'updated', after.updated)  -- the first write, which is where a full server refuses
if replace then
  local kept = {}
  for _, field in ipairs({'owner', 'status', 'created', 'updated', 'assistant', 'name'}) do
    local value = redis.call('HGET', key, field)
    if value then kept[#kept + 1], kept[#kept + 2] = field, value end
  end
  redis.call('UNLINK', key)  -- much sooner done than removing a great many fields
  redis.call('HSET', key, unpack(kept))
end
call_with('HSET', key, first, last)
call_with('HDEL', key, last + 1, #ARGV)
unlist(orders_before, member_of(id, pinned, updated))
list(orders_after, member_of(id, after[pinning], after.updated))
return reply
