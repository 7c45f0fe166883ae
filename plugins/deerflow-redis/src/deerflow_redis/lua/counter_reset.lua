-- Removes a model's sums, and the buckets that were of this model alone.
--
-- KEYS[1] totals  KEYS[2] buckets  KEYS[3] changed
-- ARGV[1] what the key of a bucket begins with  ARGV[2] how long it is known that the past was changed, ms
-- ARGV[3...] the model's fields
-- Returns 1.

local buckets = redis.call('ZRANGE', KEYS[2], 0, -1)
redis.call('HDEL', KEYS[1], unpack(ARGV, 3))
for _, bucket in ipairs(buckets) do
  local key = ARGV[1] .. bucket
  if redis.call('HDEL', key, unpack(ARGV, 3)) > 0 and redis.call('EXISTS', key) == 0 then
    redis.call('ZREM', KEYS[2], bucket)
  end
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('SET', KEYS[3], whole(now_us()), 'PX', ARGV[2])
else
  redis.call('DEL', KEYS[3]) -- so that nothing is left; the next recording sets it
end
return 1
