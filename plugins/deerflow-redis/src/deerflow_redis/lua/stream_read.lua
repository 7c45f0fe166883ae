-- Looks at a run: its head and events after a place, all of one moment.
-- KEYS[1] head  KEYS[2] events
-- ARGV[1] the seq after which to begin  ARGV[2] how many events at most
-- ARGV[3] how many bytes of data at most, unless the first event alone has more
-- Returns what `describe` makes of it, or nil if there is neither stream nor trace.
local head = find(KEYS[1])
if not head then return false end
if head.earliest <= head.seq then
  -- Fewer than the head says are there if the server has evicted them.
  head.earliest = head.seq - redis.call('XLEN', KEYS[2]) + 1
end
local after, left, room = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local function place_of(event)
  local epoch, seq = string.match(event[1], '^(%d+)-(%d+)$')
  return tonumber(epoch), tonumber(seq)
end

local groups, texts = {}, {}
if head.earliest <= head.seq and after < head.seq and left > 0 then
  local average = math.max(1, (head.total - head.base) / (head.seq - head.earliest + 1))
  -- Small at first: here they may be larger than on average.
  local portion = math.max(1, math.ceil(math.min(16, left, room / average)))
  local start = '(' .. head.created .. '-' .. ARGV[1]
  while left > 0 do
    local found = redis.call('XRANGE', KEYS[2], start, '+', 'COUNT', math.min(left, portion))
    if #found == 0 then break end
    local before = room
    local epoch, seq = place_of(found[1])
    if seq <= after then
      -- A raised epoch sorts behind every place of an earlier one: begin again in it.
      start = '(' .. epoch .. '-' .. ARGV[1]
    else
      local count = #found
      if place_of(found[count]) ~= epoch then
        count = 1
        while place_of(found[count + 1]) == epoch do count = count + 1 end
      end
      local group = #groups
      groups[group + 1], groups[group + 2], groups[group + 3] = epoch, seq, 0
      for i = 1, count do
        local name, data = found[i][2][1], found[i][2][2]
        room = room - #data
        if room < 0 and #texts > 0 then left = 0 break end
        append(groups, texts, name, data)
        groups[group + 3] = i
      end
      left = left - groups[group + 3]
      portion = math.max(1, math.min(4 * portion, math.ceil(room * count / math.max(1, before - room))))
      start = '(' .. found[math.max(1, groups[group + 3])][1]
    end
  end
end
return describe(head, KEYS[2], groups, texts)
