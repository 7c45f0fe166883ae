-- Ends a run, creating an empty stream if there is none, and wakes the readers.
-- KEYS[1] head  KEYS[2] events  KEYS[3] tokens  KEYS[4] stream of ends, with `tail: xread` alone
-- ARGV[1] the server's incarnation
-- ARGV[2] a MessagePack map: producer; number of its call; kept: how long that is, ms; lowest: epoch for a stream created
--         here; ttl, ms
-- ARGV[3] PUBLISH, SPUBLISH or nothing  ARGV[4] channel
-- Returns 1 if that ended it, 0 if it had ended, 'STALE' if a later call of the producer was here before.
local asked = cmsgpack.unpack(ARGV[2])
local head = find(KEYS[1])
local before = recall(head, KEYS[3], asked)
if before == false then return 'STALE' end
if before then return 1 end
if head and head.ended then return 0 end
check_wake(ARGV[3], ARGV[4])
if not head then
  -- Not where there is nothing: a full server refuses the first write of a script alone, and no removal.
  if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('DEL', KEYS[2]) end
  head = create(math.max(now, asked.lowest), nil)
  head.incarnation = ARGV[1]
end
head.ended = true
if head.cleaned then
  head.trace = now + asked.ttl
else
  head.expires = now + asked.ttl
end
remember(head, KEYS[3], asked)
store(head, KEYS[1], KEYS[2])
wake(head, KEYS[2], {}, {}, ARGV[3], ARGV[4], KEYS[4])
return 1
