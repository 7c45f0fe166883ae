-- Appends events to a run's stream, creating it if there is none, and wakes the readers.
-- KEYS[1] head  KEYS[2] events  KEYS[3] tokens
-- ARGV[1] the server's incarnation
-- ARGV[2] a MessagePack map: producer; number of its call; kept: how long that is, ms; lowest: epoch for a stream created
--         or an epoch raised here; ttl, ms; max_events; max_bytes; room: how many bytes of events a message may carry
-- ARGV[3] PUBLISH, SPUBLISH or nothing  ARGV[4] channel  ARGV[5] ...  name and data of each event
-- Returns {epoch, seq of the first event}, 'ENDED' if the run has ended (nothing is stored), or 'STALE' if a later call of
-- the producer was here before.
local asked = cmsgpack.unpack(ARGV[2])
local head = find(KEYS[1])
local before = recall(head, KEYS[3], asked)
if before == false then return 'STALE' end
if before then return {before[5], before[6]} end
if head and head.ended then return 'ENDED' end
check_wake(ARGV[3], ARGV[4])
local lowest = math.max(now, asked.lowest)
local retained = redis.call('XLEN', KEYS[2])
if not head or head.cleaned then
  -- Not where there is nothing: a full server refuses the first write of a script alone, and no removal.
  if retained > 0 then redis.call('DEL', KEYS[2]) end
  head = create(head and math.max(lowest, head.epoch + 1) or lowest, head)
elseif head.incarnation ~= ARGV[1] then
  head.epoch = math.max(lowest, head.epoch + 1)
end
if retained == 0 and head.earliest <= head.seq then
  -- The server has evicted the events, and their expiry with them.
  head.earliest, head.base, head.hold = head.seq + 1, head.total, 0
end
head.incarnation = ARGV[1]
head.expires = now + asked.ttl

local size, total = 0, head.total
local first = head.seq + 1
local last = head.seq + (#ARGV - 4) / 2
local groups, texts = {head.epoch, first, last - first + 1}, {}
local excess = last - head.earliest + 1 > asked.max_events
for seq = first, last do
  local at = 5 + 2 * (seq - first)
  local name, data = ARGV[at], ARGV[at + 1]
  local id = head.epoch .. '-' .. seq
  if excess and seq == last then
    redis.call('XADD', KEYS[2], 'MAXLEN', '=', asked.max_events, id, name, data, 't', total)
    head.earliest = last - asked.max_events + 1
  else
    redis.call('XADD', KEYS[2], id, name, data, 't', total)
  end
  total = total + #data
  size = size + #name + #data
  append(groups, texts, name, data)
end
head.seq, head.total = last, total

-- `base` is too low until it is looked up, so that what is retained looks larger than it is: then it is looked up.
local from, portion = '-', 1
while head.earliest < last and total - head.base > asked.max_bytes do
  for _, oldest in ipairs(redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', portion)) do
    head.base = tonumber(oldest[2][4])
    if head.earliest == last or total - head.base <= asked.max_bytes then break end
    head.earliest = head.earliest + 1
    from = '(' .. oldest[1]
  end
  portion = math.min(512, 2 * portion)
end
if from ~= '-' then redis.call('XTRIM', KEYS[2], 'MAXLEN', '=', last - head.earliest + 1) end

remember(head, KEYS[3], asked, head.epoch, first)
store(head, KEYS[1], KEYS[2])
if size > asked.room then groups, texts = {}, {} end
wake(head, KEYS[2], groups, texts, ARGV[3], ARGV[4])
return {head.epoch, first}
