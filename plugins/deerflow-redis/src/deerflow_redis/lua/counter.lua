-- What the scripts of the counters share: the server's clock, and the buckets of it.

-- Returns the microseconds since 1970.
local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Returns when the bucket that holds a moment begins, in seconds since 1970, as core's bucket_of does.
local function bucket_of(moment_us, width_seconds)
  return math.floor(moment_us / (width_seconds * 1000000)) * width_seconds
end

local function whole(number)
  return string.format('%.0f', number)
end
