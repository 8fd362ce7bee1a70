-- Appends a batch. ARGV: a token that this append alone has, the most events to keep, the most
-- milliseconds to keep them, milliseconds until an idle log expires, until a finished one does
-- (each '' for no limit); then for each event its type, its data, '1' if it is terminal, '1' if it
-- has a key, and the key.
-- Returns for each event its id, or 0 for a duplicate.
local TOKEN, MAX, AGE, IDLE, FINISHED = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
-- 2026-01-01T00:00:00Z, in microseconds.
local EPOCH = 1767225600000000
local MAX_ID = 9007199254740991
local MAX_GAPS = 64

local log = load()
local outcomes, new, seen = {}, {}, {}
for i = 6, #ARGV, 5 do
  local event = { type = ARGV[i], data = ARGV[i + 1], terminal = ARGV[i + 2] == '1' }
  local outcome = nil
  if ARGV[i + 3] == '1' then
    event.key = ARGV[i + 4]
    local fact = log and not seen[event.key] and redis.call('HGET', FACTS, event.key)
    if fact then
      local id, token = string.match(fact, '^(%d+) (.*)$')
      -- By an earlier try of this same append, whose answer was lost.
      outcome = token == TOKEN and tonumber(id) or 0
    elseif seen[event.key] then
      outcome = 0
    end
    seen[event.key] = true
  end
  if not outcome then
    new[#new + 1] = event
    event.index = #outcomes + 1
    outcome = -1
  end
  outcomes[#outcomes + 1] = outcome
end
if #new == 0 then
  return outcomes
end

local time, microseconds = now()
-- The server's history: it gets another name by a restart and by a failover, and its newest events
-- may be gone then.
local info = redis.pcall('INFO', 'replication')
local origin = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
-- The ids of a log begin with the time of its creation, 4 a microsecond: faster than anybody can
-- append, so that those of a log that was deleted before, and of events that were lost, are smaller.
local fresh = math.max((microseconds - EPOCH) * 4, 0)
local is_new = not log
local head, gaps
if is_new then
  log = { time = time, closed = false }
  head, gaps = fresh, '0:' .. text(fresh + 1)
elseif log.origin ~= origin then
  -- The second if the clock was set back.
  head = fresh > log.head and fresh or log.head + 1048576
  gaps = log.gaps .. ',' .. text(log.head) .. ':' .. text(head + 1)
else
  head, gaps = log.head, log.gaps
end
if head + #new > MAX_ID then
  return redis.error_reply('ERR the ids of this log are used up')
end

-- Before anything is written, for it is what an ACL may refuse. Nobody can look before the end.
redis.call('PUBLISH', EVENTS, '')
-- The first write, for it is what a full memory refuses: after another one nothing would be.
redis.call('HSET', META, 'origin', origin)
if is_new then
  redis.call('DEL', EVENTS, FACTS)
end
log.time = math.max(log.time, time)
log.origin = origin
for _, event in ipairs(new) do
  head = head + 1
  local entry = { 'type', event.type, 'data', event.data }
  if event.key then
    entry[#entry + 1] = 'key'
    entry[#entry + 1] = event.key
    redis.call('HSET', FACTS, event.key, text(head) .. ' ' .. TOKEN)
  end
  if event.terminal then
    entry[#entry + 1] = 'terminal'
    entry[#entry + 1] = '1'
  end
  redis.call('XADD', EVENTS, text(head) .. '-' .. text(log.time), unpack(entry))
  outcomes[event.index] = head
  log.oldest = log.oldest or head
end
log.head = head
log.closed = new[#new].terminal
trim(log, MAX, AGE and time - AGE)

-- Of the gaps that are left, the oldest two become one when there are many: that at worst sends
-- somebody back to the beginning.
local kept = {}
for low, high in string.gmatch(gaps, '(%d+):(%d+)') do
  if tonumber(high) > (log.trimmed or 0) then
    kept[#kept + 1] = { low, high }
  end
end
while #kept > MAX_GAPS do
  kept[1][2] = kept[2][2]
  table.remove(kept, 2)
end
for i, gap in ipairs(kept) do
  kept[i] = gap[1] .. ':' .. gap[2]
end
log.gaps = table.concat(kept, ',')
save(log)

local expiry = log.closed and FINISHED or IDLE
for _, key in ipairs(KEYS) do
  if expiry then
    redis.call('PEXPIRE', key, text(expiry))
  elseif FINISHED then
    redis.call('PERSIST', key)
  end
end
return outcomes
