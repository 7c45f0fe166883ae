-- What the stream scripts share; put in front of each. Times are in milliseconds since 1970 by the server's clock.
--
-- The head of a stream is a MessagePack map:
--   created epoch seq earliest   the epoch it was created in; the last id; the seq of the earliest event retained
--   total base                   bytes of all data ever appended, and of those before the earliest event at most
--   ended expires                whether it has ended; when it disappears
--   hold                         when its events are freed: later than `expires`, so that it need not be set each time
--   cleanup trace                when its events are hidden; when the trace that is left then disappears; or absent
--   prior_epoch prior_seq        the last id of the stream in whose place this one was created, or absent
--   incarnation                  of the server that wrote events last
--   cleaned                      whether its events are hidden, and this is the trace; or absent
--   call                         of whoever wrote last: {producer, number, when, how long to keep it, epoch, seq}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The head under a key as of now, or nil; one whose cleanup is due is `cleaned`.
local function find(key)
  local packed = redis.call('GET', key)
  if not packed then return nil end
  local readable, head = pcall(cmsgpack.unpack, packed)
  if not readable or type(head) ~= 'table' or not head.created then
    error({err = 'CORRUPT the key ' .. key .. ' holds no head of a stream; remove it'})
  end
  if head.cleanup and head.cleanup <= now and head.cleanup <= head.expires then head.cleaned = true end
  if head.cleaned then head.earliest = head.seq + 1 end
  return head
end

-- A new stream, in place of a trace if there is one.
local function create(epoch, trace)
  local head = {created = epoch, epoch = epoch, seq = 0, earliest = 1, total = 0, base = 0, ended = false, hold = 0}
  if trace then head.prior_epoch, head.prior_seq, head.call = trace.epoch, trace.seq, trace.call end
  return head
end

-- When a head disappears: with its stream, or with the trace that a cleanup leaves.
local function leaves_at(head)
  if head.cleaned or head.cleanup and head.cleanup <= head.expires then return head.trace end
  return head.expires
end

-- Keeps a call beside the head for as long as it may be repeated; of many only those that yet may.
local function keep(tokens_key, call)
  local new = redis.call('HSET', tokens_key, call[1], cmsgpack.pack(call))
  if redis.call('PTTL', tokens_key) < call[4] then redis.call('PEXPIRE', tokens_key, call[4]) end
  if new == 1 and redis.call('HLEN', tokens_key) > 64 then
    local all = redis.call('HGETALL', tokens_key)
    for i = 1, #all, 2 do
      local one = cmsgpack.unpack(all[i + 1])
      if one[3] < now - one[4] then redis.call('HDEL', tokens_key, all[i]) end
    end
  end
end

-- The call of a producer when it was here before; nil if it was not, false if a later one was here already. A call that
-- is repeated writes, too: who has the server WAIT for replicas after it waits for all that was written before.
local function recall(head, tokens_key, asked)
  local call = head and head.call
  if not call or call[1] ~= asked.producer then
    local packed = redis.call('HGET', tokens_key, asked.producer)
    if not packed then return nil end
    call = cmsgpack.unpack(packed)
  end
  if call[2] < asked.number then return nil end
  if call[2] > asked.number then return false end
  keep(tokens_key, call)
  return call
end

-- Remembers a call in the head, with what it is answered; the last one of another producer goes beside it, and so does
-- this one if the head may be gone while it can still be repeated.
local function remember(head, tokens_key, asked, epoch, seq)
  local former = head.call
  if former and former[1] ~= asked.producer and former[3] > now - former[4] then keep(tokens_key, former) end
  head.call = {asked.producer, asked.number, now, asked.kept, epoch, seq}
  if leaves_at(head) < now + asked.kept then keep(tokens_key, head.call) end
end

-- Writes the head, and sees to it that it and its events disappear in time.
local function store(head, head_key, events_key)
  if head.cleaned then
    redis.call('DEL', events_key)
  elseif head.cleanup and head.cleanup <= head.expires then
    head.hold = 0
    redis.call('PEXPIREAT', events_key, head.cleanup)
  elseif head.expires > head.hold then
    head.hold = head.expires + math.min(60000, math.floor((head.expires - now) / 8))
    redis.call('PEXPIREAT', events_key, head.hold)
  end
  redis.call('SET', head_key, cmsgpack.pack(head), 'PXAT', leaves_at(head))
end

-- What readers are told: the length of a MessagePack array, that array, and each event's name and data. The array: created
-- epoch seq, epoch and seq of the earliest event, ended, cleaned, prior epoch and seq, when the stream or its trace
-- vanishes, now; then `groups` of events that follow each other in one epoch: this epoch, the seq of the first, how many
-- there are, and of each the lengths of its name and its data. -1 stands for none.
local function describe(head, events_key, groups, texts)
  local earliest_epoch = -1
  if head.earliest <= head.seq then
    earliest_epoch = head.epoch
    if head.created ~= head.epoch then
      local first = redis.call('XRANGE', events_key, '-', '+', 'COUNT', 1)[1]
      if first then earliest_epoch = tonumber(string.match(first[1], '^%d+')) end
    end
  end
  local vanishes = head.expires
  if head.cleaned then
    vanishes = head.trace
  elseif head.cleanup and head.cleanup < vanishes then
    vanishes = head.cleanup
  end
  local numbers = {
    head.created, head.epoch, head.seq, earliest_epoch, head.earliest, head.ended, head.cleaned or false,
    head.prior_epoch or -1, head.prior_seq or -1, vanishes, now,
  }
  for i = 1, #groups do numbers[11 + i] = groups[i] end
  local packed = cmsgpack.pack(numbers)
  return struct.pack('>I4', #packed) .. packed .. table.concat(texts)
end

-- Raises an error if the user may not publish the message that `wake` is going to: after writing it would be too late.
local function check_wake(command, channel)
  if command ~= '' and not redis.acl_check_cmd(command, channel) then
    error({err = 'NOPERM the user may not ' .. command .. ' on the channel ' .. channel})
  end
end

-- Wakes the readers of a run: by a message on its channel, or for END and cleanup, which are no events, by an entry in
-- the stream that every XREAD waits for too.
local function wake(head, events_key, groups, texts, command, channel, ends_key)
  if command ~= '' then redis.call(command, channel, describe(head, events_key, groups, texts)) end
  if ends_key then
    redis.call('XADD', ends_key, 'MAXLEN', '~', 1000, '*', 'channel', channel)
    redis.call('PEXPIRE', ends_key, 20000)
  end
end

-- Adds an event to the last of `groups`.
local function append(groups, texts, name, data)
  local n = #groups
  groups[n + 1], groups[n + 2] = #name, #data
  n = #texts
  texts[n + 1], texts[n + 2] = name, data
end
