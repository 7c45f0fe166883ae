-- What the scripts of the thread index share.

local QUOTE = 34  -- begins the fields of metadata, which are keys written as JSON, and no other fields
local MANY = 2000  -- how many values one command is given: unpack has a limit

local function thread_key(id) return KEYS[1] .. 'thread:' .. id end

-- Write a time: 8 bytes, in two halves, since a number of Lua cannot hold all microseconds of a restored time.
local function moment(high, low) return struct.pack('>I4I4', high, low) end

-- Return the two halves of now.
local function now()
  local time = redis.call('TIME')
  local microseconds = time[1] * 1000000 + time[2]
  return math.floor(microseconds / 2 ^ 32) + 2 ^ 31, microseconds % 2 ^ 32
end

-- Give a command on a key the arguments from first to last, as many at a time as it takes.
local function call_with(command, key, first, last)
  for i = first, last, MANY do redis.call(command, key, unpack(ARGV, i, math.min(i + MANY - 1, last))) end
end

-- Return the sorted sets that a stored thread belongs in, and its member there. It is pinned if the field `pinning`
-- is 'true'.
local function listing_of(id, pinning)
  local owner, status, updated, pinned =
    unpack(redis.call('HMGET', thread_key(id), 'owner', 'status', 'updated', pinning))
  local orders = KEYS[1] .. 'order:'
  return {orders .. '*:*', orders .. '*:' .. status, orders .. owner .. ':*', orders .. owner .. ':' .. status},
    (pinned == 'true' and '1' or '0') .. updated .. id
end

-- Add a stored thread to the listings that it belongs in.
local function list(id, pinning)
  local orders, member = listing_of(id, pinning)
  for _, order in ipairs(orders) do redis.call('ZADD', order, 0, member) end
end

-- Remove a member from listings.
local function unlist(orders, member)
  for _, order in ipairs(orders) do redis.call('ZREM', order, member) end
end
