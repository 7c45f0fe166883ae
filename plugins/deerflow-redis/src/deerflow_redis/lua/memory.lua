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

local function corrupt(key)
  return redis.error_reply('CORRUPT what is stored at ' .. key .. ' was not written by deerflow-redis')
end
