-- Sums the buckets of a window; of many only some, so that nobody else has to wait for long.
--
-- KEYS[1] buckets  KEYS[2] changed
-- ARGV[1] what the key of a bucket begins with  ARGV[2] the width of a bucket, s  ARGV[3] the length of the window, s
-- ARGV[4] how many fields to read, those of one bucket at least  ARGV[5] how many buckets to look at
-- ARGV[6] the bucket to go on with  ARGV[7] the last one of the window: both empty in the first call
-- ARGV[8...] the fields to read; none for all
-- Returns {when the past was changed last, the bucket to go on with or '', the last one of the window,
--   field, sum, field, sum, ...}, where a field may come more than once.

local buckets = KEYS[1]
local first, last = ARGV[6], ARGV[7]
if first == '' then
  local now, width = now_us(), tonumber(ARGV[2])
  first, last = whole(bucket_of(now - ARGV[3] * 1000000, width)), whole(bucket_of(now, width))
end

-- Without a bucket left this differs too from what was said while there were some.
local changed = redis.call('GET', KEYS[2]) or tostring(redis.call('EXISTS', buckets))
local result = {changed, '', last}
local size = 3
local sums = {}

local function add(field, amount)
  -- What may not be exact as a number of Lua's is left to the caller.
  if #amount > 9 then
    result[size + 1], result[size + 2] = field, amount
    size = size + 2
  else
    sums[field] = (sums[field] or 0) + amount
  end
end

local left, many = tonumber(ARGV[4]), tonumber(ARGV[5])
for i, bucket in ipairs(redis.call('ZRANGE', buckets, first, last, 'BYSCORE', 'LIMIT', 0, whole(many + 1))) do
  local key = ARGV[1] .. bucket
  local fields = #ARGV > 7 and #ARGV - 7 or redis.call('HLEN', key)
  if i > 1 and (fields > left or i > many) then
    result[2] = bucket
    break
  end
  left = left - fields
  if #ARGV > 7 then
    for j, amount in ipairs(redis.call('HMGET', key, unpack(ARGV, 8))) do
      if amount then
        add(ARGV[7 + j], amount)
      end
    end
  else
    local found = redis.call('HGETALL', key)
    for j = 1, #found, 2 do
      add(found[j], found[j + 1])
    end
  end
end

for field, sum in pairs(sums) do
  result[size + 1], result[size + 2] = field, whole(sum)
  size = size + 2
end
return result
