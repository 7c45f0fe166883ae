-- Hides a run's events, now or later, leaves a trace, and wakes the readers.
-- KEYS[1] head  KEYS[2] events  KEYS[3] tokens  KEYS[4] stream of ends, with `tail: xread` alone
-- ARGV[1] the server's incarnation, not looked at
-- ARGV[2] a MessagePack map: producer; number of its call; kept: how long that is, ms; ttl of the trace, ms; delay, ms
-- ARGV[3] PUBLISH, SPUBLISH or nothing  ARGV[4] channel
-- Returns 1 if that changed anything, 0 if not, 'STALE' if a later call of the producer was here before.
local asked = cmsgpack.unpack(ARGV[2])
local head = find(KEYS[1])
local before = recall(head, KEYS[3], asked)
if before == false then return 'STALE' end
if before then return 1 end
if not head or head.cleaned then return 0 end
local at = now + asked.delay
if head.cleanup and head.cleanup <= at then return 0 end
check_wake(ARGV[3], ARGV[4])
head.cleanup = at
head.trace = at + asked.ttl
if at <= now then
  head.cleaned = true
  head.earliest = head.seq + 1
end
remember(head, KEYS[3], asked)
store(head, KEYS[1], KEYS[2])
wake(head, KEYS[2], {}, {}, ARGV[3], ARGV[4], KEYS[4])
return 1
