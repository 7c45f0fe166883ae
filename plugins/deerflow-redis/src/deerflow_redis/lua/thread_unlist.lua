-- Take a thread that the server evicted out of a sorted set, where it stands though it is not stored as it is listed.
--
-- KEYS[1] what the keys of all threads begin with  KEYS[2] the sorted set, whose members end with ids
-- ARGV[1] the metadata field that pins where it is 'true'  ARGV[2] the thread's id
-- ARGV[3] the member to go on after, '' for all  ARGV[4] where in a member the id begins, from 1
-- ARGV[5] how many members to look at
-- Returns how many were taken out, and the member to go on after, '' at the end

local id, after, begin, many = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local from = after == '' and '-' or '(' .. after
local members = redis.call('ZRANGE', KEYS[2], from, '+', 'BYLEX', 'LIMIT', 0, many)
local taken = 0
for _, member in ipairs(members) do
  if member:sub(begin) == id and not is_listed(thread_key(id), id, KEYS[2], member) then
    taken = taken + redis.call('ZREM', KEYS[2], member)
  end
end
return {taken, #members == many and members[many] or ''}
