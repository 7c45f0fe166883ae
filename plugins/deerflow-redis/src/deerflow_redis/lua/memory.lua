-- What the scripts of the memory have before them. A part is an agent's encoded name, '!' for the user-wide part; its
-- facts have fields that begin with it and '/', so that by byte order they are together, and by id. Revisions and times
-- are text throughout: numbers of Lua are exact to 2^53 only.

-- The bounds of a part's fields: '0' follows '/'.
local function bounds(part)
  return '[' .. part .. '/', '(' .. part .. '0'
end

-- Microseconds since 1970.
local function now()
  local clock = redis.call('TIME')
  return clock[1] .. string.format('%06d', clock[2])
end

-- Whether some of a user's keys are gone and others are not, as the server alone can do it.
local function is_torn()
  return redis.call('HLEN', KEYS[3]) ~= redis.call('ZCARD', KEYS[4])
    or (redis.call('EXISTS', KEYS[1]) == 0 and redis.call('EXISTS', KEYS[2], KEYS[3]) > 0)
end

local function torn()
  return redis.error_reply('CORRUPT the server evicted some of what is stored beside ' .. KEYS[1] .. ', which it must '
    .. 'not (maxmemory-policy noeviction); clear all of this memory or erase it, and restore it from a copy')
end

local function corrupt(key)
  return redis.error_reply('CORRUPT what is stored at ' .. key .. ' was not written by deerflow-redis')
end
