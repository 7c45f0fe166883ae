-- Names the parts that have a body or facts.
-- KEYS[1] bodies  KEYS[2] ids
-- Returns the parts, in no order; one that has both may come twice

local parts = redis.call('HKEYS', KEYS[1])
local from = '-'
while true do
  local field = redis.call('ZRANGE', KEYS[2], from, '+', 'BYLEX', 'LIMIT', 0, 1)[1]
  if not field then
    return parts
  end
  local part = string.sub(field, 1, string.find(field, '/', 1, true) - 1)
  parts[#parts + 1] = part
  from = '[' .. part .. '0' -- follows all that begins with the part and '/'
end
