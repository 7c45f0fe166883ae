-- Remove one thread, if it is in scope.
--
-- KEYS[1] what the keys of all threads begin with
-- ARGV[1] the metadata field that pins where it is 'true'  ARGV[2] the thread's id
-- ARGV[3] whose threads are in scope, as in keys; '*' for all
-- Returns 1, or 0 if there is none in scope

local pinning, id, scope = ARGV[1], ARGV[2], ARGV[3]
local key = thread_key(id)
local owner = redis.call('HGET', key, 'owner')
if not owner or (scope ~= '*' and scope ~= owner) then return 0 end

unlist(listing_of(id, pinning))
redis.call('ZREM', KEYS[1] .. 'ids', id)
redis.call('UNLINK', key)
return 1
