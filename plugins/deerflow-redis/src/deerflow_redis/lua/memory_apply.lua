-- Makes all changes to a user's memory or none, judged as `deerflow_backends.changes.judge` does: everything is looked
-- at before anything is written.
-- KEYS[1] user  KEYS[2] bodies  KEYS[3] facts  KEYS[4] ids
-- ARGV[1] the expected revision of the user, '' for any
-- ARGV[2...] four for each change: 'body', 'put' or 'delete'; the expected revision, '' for any, '0' for absent; the
--   field of the body or fact; its JSON, '' to delete
-- Returns {'conflict', the number of the change, 0 for the user; the revision that was found, '0' for absent}
-- or {'applied', the user's revision, {for each change '=' if it changes nothing and '+' if it does; a fact that is put
--   has its stamp after that: revision, creation and change, times in microseconds since 1970}}

local function successor(revision)
  local front, digit, nines = string.match(revision, '^(%d-)([0-8])(9*)$')
  if not front then
    return '1' .. string.rep('0', #revision)
  end
  return front .. (digit + 1) .. string.rep('0', #nines)
end

local time = now()
if is_torn() then -- which raises here, not half-way, if something else has the name of a key
  return torn()
end

local revision = redis.call('HGET', KEYS[1], 'revision') or '0'
if not string.find(revision, '^%d+$') then
  return corrupt(KEYS[1])
end
if ARGV[1] ~= '' and ARGV[1] ~= revision then
  return {'conflict', 0, revision}
end

local outcomes, records, changed = {}, {}, false
for number = 1, (#ARGV - 1) / 4 do
  local at = number * 4 - 2
  local kind, expected, field, value = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local record
  if kind == 'body' then
    record = redis.call('HGET', KEYS[2], field) or '0 {}'
  else
    record = redis.call('HGET', KEYS[3], field) or '0 '
  end
  local stamp = string.match(record, '^[%d%- ]+')
  local found, times = string.match(stamp or '', '^(%d+) (.*)$')
  local created = found == '0' and time or string.match(times or '', '^(%-?%d+) ')
  if not found or (kind ~= 'body' and not created) then
    return corrupt(kind == 'body' and KEYS[2] or KEYS[3])
  end
  if expected ~= '' and expected ~= found then
    return {'conflict', number, found}
  end
  outcomes[number] = '='
  if kind == 'delete' then
    if found ~= '0' then
      outcomes[number], records[number] = '+', ''
    end
  elseif stamp .. value == record then
    outcomes[number] = '=' .. stamp
  elseif kind == 'body' then
    outcomes[number], records[number] = '+', successor(found) .. ' ' .. value
  else
    stamp = successor(found) .. ' ' .. created .. ' ' .. time .. ' '
    outcomes[number], records[number] = '+' .. stamp, stamp .. value
  end
  changed = changed or records[number] ~= nil
end

for number = 1, (#ARGV - 1) / 4 do
  local field, record = ARGV[number * 4], records[number]
  if not record then
    -- as it was
  elseif ARGV[number * 4 - 2] == 'body' then
    redis.call('HSET', KEYS[2], field, record)
  elseif record ~= '' then
    redis.call('HSET', KEYS[3], field, record)
    redis.call('ZADD', KEYS[4], 0, field)
  else
    redis.call('HDEL', KEYS[3], field)
    redis.call('ZREM', KEYS[4], field)
  end
end
if changed then -- last: a server whose memory is full lets a script write once it has removed something
  revision = successor(revision)
  redis.call('HSET', KEYS[1], 'revision', revision, 'updated_at', time)
end
return {'applied', revision, outcomes}
