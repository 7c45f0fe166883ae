-- Ends the XREAD of one process, which waits for this stream too.
-- KEYS[1] its stream
-- Returns the new entry's id.
local id = redis.call('XADD', KEYS[1], 'MAXLEN', 1, '*', 'u', '')
redis.call('PEXPIRE', KEYS[1], 20000)
return id
