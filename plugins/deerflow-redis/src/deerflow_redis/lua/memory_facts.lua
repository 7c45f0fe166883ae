-- Reads some facts of one part by id.
-- KEYS[1] user  KEYS[2] bodies  KEYS[3] facts  KEYS[4] ids
-- ARGV[1] the field after which; a part with its '/' is before all its facts  ARGV[2] the part
-- ARGV[3] how many facts at most  ARGV[4] how many bytes about, though always one fact
-- Returns {1 if more may follow, else 0; for each fact its field and its record}

if is_torn() then
  return torn()
end
local most, bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local _, past = bounds(ARGV[2])
local fields = redis.call('ZRANGE', KEYS[4], '(' .. ARGV[1], past, 'BYLEX', 'LIMIT', 0, most)
local reply = {0}
for number, field in ipairs(fields) do
  local record = redis.call('HGET', KEYS[3], field)
  reply[2 * number], reply[2 * number + 1] = field, record
  bytes = bytes - #field - #(record or '')
  if number == most or (bytes <= 0 and number < #fields) then
    reply[1] = 1
    break
  end
end
return reply
