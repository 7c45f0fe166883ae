-- Adds to the sums of models, ever and in the bucket of the moment it happened: all of it or nothing, once for a token.
--
-- KEYS[1] totals  KEYS[2] buckets  KEYS[3] changed  KEYS[4] the token's, if there is one
-- ARGV[1] what the key of a bucket begins with  ARGV[2] the width of a bucket, s  ARGV[3] how many are kept
-- ARGV[4] how long a token is remembered, ms  ARGV[5] how long it is known that the past was changed, ms
-- ARGV[6...] for each recording: model name, age in us, calls, successes, failures, positive, negative
-- Returns 1, or 0 if the token is remembered. Sums go through as strings, of which the server makes 64 bits.

local totals, buckets = KEYS[1], KEYS[2]
local width, kept = tonumber(ARGV[2]), tonumber(ARGV[3])
local letters = {'c', 's', 'f', 'p', 'n'}

if KEYS[4] and redis.call('EXISTS', KEYS[4]) == 1 then
  return 0
end
redis.call('ZCARD', buckets) -- raises, before anything is written, if it is no sorted set

local now = now_us()
local current = bucket_of(now, width)
local oldest = current - width * kept

-- What is to be added to what: key, field, amount, what is there (false for nothing), key, field, amount, ...
local additions, touched = {}, {}
local size = 0

local function add(key, model, from)
  local fields, named = {}, false
  for j, letter in ipairs(letters) do
    fields[j] = letter .. model
  end
  local before = redis.call('HMGET', key, unpack(fields))
  for j, field in ipairs(fields) do
    local amount = ARGV[from + j]
    -- Without any the model would not be named.
    if amount ~= '0' or (j == #fields and not named) then
      named = true
      additions[size + 1], additions[size + 2], additions[size + 3], additions[size + 4] = key, field, amount, before[j]
      size = size + 4
    end
  end
end

for i = 6, #ARGV, 7 do
  local bucket = bucket_of(now - ARGV[i + 1], width)
  add(totals, ARGV[i], i + 1)
  if bucket >= oldest then
    touched[bucket] = ARGV[1] .. whole(bucket)
    add(touched[bucket], ARGV[i], i + 1)
  end
end

for i = 1, size, 4 do
  local sum = redis.pcall('HINCRBY', additions[i], additions[i + 1], additions[i + 2])
  if type(sum) == 'table' then
    for j = 1, i - 4, 4 do
      local key, field, before = additions[j], additions[j + 1], additions[j + 3]
      if before then
        redis.call('HSET', key, field, before)
      else
        redis.call('HDEL', key, field)
      end
    end
    if string.sub(sum.err, 1, 4) == 'ERR ' then
      return redis.error_reply('CORRUPT a sum of a model cannot be added to (' .. sum.err .. '); reset the model')
    end
    return sum
  end
end

redis.call('ZREMRANGEBYSCORE', buckets, '-inf', '(' .. whole(oldest))
-- The first bucket is a change of the past too: there may have been others, which a reset removed.
local changed = redis.call('EXISTS', buckets) == 0
for bucket, key in pairs(touched) do
  local start = whole(bucket)
  redis.call('ZADD', buckets, start, start)
  redis.call('PEXPIREAT', key, whole((bucket + width * (kept + 1)) * 1000))
  changed = changed or bucket < current
end
if changed then
  redis.call('SET', KEYS[3], whole(now), 'PX', ARGV[5])
end
redis.call('PEXPIREAT', buckets, whole((current + width * (kept + 1)) * 1000))
if KEYS[4] then
  redis.call('SET', KEYS[4], '', 'PX', ARGV[4])
end
return 1
