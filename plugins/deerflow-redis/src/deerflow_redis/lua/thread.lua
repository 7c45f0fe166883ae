-- What the scripts of the thread index share; put in front of each.

local QUOTE = 34  -- begins the fields of metadata, which are keys written as JSON, and no other fields
local pinning = ARGV[1]  -- the metadata field that pins where it is 'true'
local MANY = 2000  -- how many values one command is given: unpack has a limit

local function thread_key(id) return KEYS[1] .. 'thread:' .. id end

-- A time as 8 bytes, in two halves, since a number of Lua cannot hold all microseconds of a restored time.
local function moment(high, low) return struct.pack('>I4I4', high, low) end

-- The two halves of now.
local function now()
  local time = redis.call('TIME')
  local microseconds = time[1] * 1000000 + time[2]
  return math.floor(microseconds / 2 ^ 32) + 2 ^ 31, microseconds % 2 ^ 32
end

-- The sorted sets that list a thread. Raises if something else is in their place: to be called before anything is
-- written, since what a script wrote stays.
local function orders_of(owner, status)
  local orders = {}
  redis.call('ZCARD', KEYS[1] .. 'ids')
  for _, who in ipairs({'*', owner}) do
    for _, what in ipairs({'*', status}) do
      local order = KEYS[1] .. 'order:' .. who .. ':' .. what
      redis.call('ZCARD', order)
      orders[#orders + 1] = order
    end
  end
  return orders
end

-- What stands for a thread there; `pinned` is the metadata that pins it if it is 'true'.
local function member_of(id, pinned, updated) return (pinned == 'true' and '1' or '0') .. updated .. id end

-- Whether a thread stands where it belongs: as this member of a listing, or simply in `ids`.
local function is_listed(key, id, order, member)
  local owner, status, updated, pinned = unpack(redis.call('HMGET', key, 'owner', 'status', 'updated', pinning))
  if not owner or order == KEYS[1] .. 'ids' then return owner end
  local who, what = order:sub(#KEYS[1] + 1):match('^order:([^:]*):(.*)$')
  return (who == '*' or who == owner) and (what == '*' or what == status)
    and updated and member == member_of(id, pinned, updated)
end

local function list(orders, member)
  for _, order in ipairs(orders) do redis.call('ZADD', order, 0, member) end
end

local function unlist(orders, member)
  for _, order in ipairs(orders) do redis.call('ZREM', order, member) end
end

-- Give a command on a key the arguments from first to last, as many at a time as it takes.
local function call_with(command, key, first, last)
  for i = first, last, MANY do redis.call(command, key, unpack(ARGV, i, math.min(i + MANY - 1, last))) end
end
