-- Remove one thread, if it is in scope.
--
-- KEYS[1] what the keys of all threads begin with
-- ARGV[1] the metadata field that pins where it is 'true'  ARGV[2] the thread's id
-- ARGV[3] whose threads are in scope, as in keys; '*' for all
-- Returns 1; 0 if there is none in scope; -1 if the server evicted it, and it is still listed

local id, scope = ARGV[2], ARGV[3]
local key = thread_key(id)
local owner, status, updated, pinned = unpack(redis.call('HMGET', key, 'owner', 'status', 'updated', pinning))
if not owner and redis.call('ZSCORE', KEYS[1] .. 'ids', id) then return -1 end
if not owner or (scope ~= '*' and scope ~= owner) then return 0 end

unlist(orders_of(owner, status), member_of(id, pinned, updated))
redis.call('ZREM', KEYS[1] .. 'ids', id)
redis.call('UNLINK', key)
return 1
