-- Appends a batch. ARGV: a token that only this append has, the most events to keep, the most
-- milliseconds to keep them, milliseconds until an idle log expires, until a finished one does
-- (each '' for no limit); then for each event its type, its data, '1' if it is terminal, '1' if it
-- has a key, and the key.
-- Returns for each event its id, or 0 for a duplicate.
local TOKEN, MAX, AGE, IDLE, FINISHED = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
-- 2026-01-01T00:00:00Z, in microseconds.
local EPOCH = 1767225600000000
local MAX_ID = 9007199254740991
local MAX_GAPS = 64
local JUMP = 1048576

local log = load()
-- A log that has lost only its stream counts as new too: its facts go with their events, and its
-- readers are reset.
local is_new = not log or log.is_lost
-- Fails if the keys have another type, and so belong to another program.
redis.call('HLEN', FACTS)

-- Entries of a script that was interrupted, which the hash does not have: their ids are taken.
while not is_new do
  local entry = redis.call('XRANGE', EVENTS, text(log.head + 1), '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  log.head, log.time = parse(entry)
  log.oldest, log.closed = log.oldest or log.head, fields(entry).terminal == '1'
end

-- If only the facts of a log are lost, deleted or evicted, they are restored from its events.
local restored = nil
if not is_new and log.has_facts and not redis.call('HGET', FACTS, MARK) then
  restored = {}
  local from = log.oldest
  while from do
    local entries = redis.call('XRANGE', EVENTS, text(from), text(log.head), 'COUNT', 16)
    from = nil
    for _, entry in ipairs(entries) do
      local id, key = parse(entry), fields(entry).key
      if key then
        -- Without the token, which the events do not have.
        restored[key] = text(id) .. ' '
      end
      from = id + 1
    end
  end
end

local outcomes, new, seen, has_keys = {}, {}, {}, false
for i = 6, #ARGV, 5 do
  local event = { type = ARGV[i], data = ARGV[i + 1], terminal = ARGV[i + 2] == '1' }
  local outcome = nil
  if ARGV[i + 3] == '1' then
    event.key, has_keys = ARGV[i + 4], true
    if seen[event.key] then
      outcome = 0
    elseif not is_new then
      local fact = nil
      if restored then
        fact = restored[event.key]
      else
        fact = redis.call('HGET', FACTS, event.key)
      end
      local id, token = string.match(fact or '', '^(%d+) (.*)$')
      -- A fact is known as long as its event is kept.
      if id and tonumber(id) > (log.trimmed or 0) then
        -- Stored by an earlier try of this same append, whose answer was lost.
        outcome = token == TOKEN and tonumber(id) or 0
      end
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

-- Returns the error if the server refuses it. The mark comes last: half of the facts are as good as
-- none.
local function restore()
  for key, fact in pairs(restored) do
    local refused = refusal('HSET', FACTS, key, fact)
    if refused then
      return refused
    end
  end
  return refusal('HSET', FACTS, MARK, '1')
end

if #new == 0 then
  if restored then
    -- Otherwise a later append restores them.
    restore()
  end
  return outcomes
end

local time, microseconds = now()
-- The name of the server's history. A restart and a failover change it, and the newest events may
-- then be gone.
local info = redis.pcall('INFO', 'replication')
local origin = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
-- The ids of a log begin with the time of its creation, 4 for each microsecond: faster than anybody
-- can append. So the ids of an earlier log of this name, and of lost events, are smaller.
local fresh = math.max((microseconds - EPOCH) * 4, 0)
local head, gaps = fresh, '0:' .. text(fresh + 1)
if is_new then
  if log and fresh <= log.head then
    head, gaps = log.head + JUMP, '0:' .. text(log.head + JUMP + 1)
  end
elseif log.origin ~= origin then
  -- The second if the clock was set back.
  head = fresh > log.head and fresh or log.head + JUMP
  gaps = log.gaps .. ',' .. text(log.head) .. ':' .. text(head + 1)
else
  head, gaps = log.head, log.gaps
end
if head + #new > MAX_ID then
  return redis.error_reply('ERR the ids of this log are used up')
end

-- Each command that the server may refuse is first run where it changes nothing, so that a refused
-- batch is stored in no part.
local function preparation_refused()
  -- No other client can read before the script ends.
  local refused = refusal('PUBLISH', EVENTS, '')
    -- This is the first write because a full memory refuses only the first write of a script.
    or refusal('HSET', META, 'gaps', log and log.gaps or gaps)
  if not refused and is_new then
    -- Anything that exists belongs to a lost log. Then there is no stream, and no expiry is set.
    refused = refusal('DEL', EVENTS, FACTS)
      or ((IDLE or FINISHED) and refusal('PEXPIRE', EVENTS, '1'))
      or (FINISHED and refusal('PERSIST', EVENTS))
  end
  if not refused and (MAX or AGE) then
    refused = removal_refused()
  end
  if not refused and restored then
    refused = restore()
  elseif not refused and has_keys and (is_new or not log.has_facts) then
    refused = refusal('HSET', FACTS, MARK, '1')
  end
  return refused
end

local stored = 0
local function storing_refused()
  for _, event in ipairs(new) do
    head = head + 1
    local entry = { 'type', event.type, 'data', event.data }
    if event.key then
      entry[#entry + 1] = 'key'
      entry[#entry + 1] = event.key
    end
    if event.terminal then
      entry[#entry + 1] = 'terminal'
      entry[#entry + 1] = '1'
    end
    local refused = refusal('XADD', EVENTS, text(head) .. '-' .. text(log.time), unpack(entry))
    if refused then
      return refused
    end
    stored = stored + 1
    refused = event.key and refusal('HSET', FACTS, event.key, text(head) .. ' ' .. TOKEN)
    if refused then
      return refused
    end
    outcomes[event.index] = head
    log.oldest = log.oldest or head
  end
end

local was_there = log
local refused = preparation_refused()
local gone = nil
if not refused then
  log = {
    time = math.max(log and log.time or 0, time),
    oldest = not is_new and log.oldest or nil,
    trimmed = not is_new and log.trimmed or nil,
    has_facts = has_keys or (not is_new and log.has_facts),
    closed = new[#new].terminal,
    origin = origin,
  }
  refused = storing_refused()
end
if not refused then
  log.head = head
  gone = trim(log, MAX, AGE and time - AGE)
  -- If many gaps are left, the second goes, and the first stays: that has all ids of earlier logs of
  -- this name. A client whose last event was lost in the one that goes is not told, but misses
  -- nothing that is kept. Two of them never become one, which would cover the events between them:
  -- their readers, and those at the beginning, would be reset for ever.
  local kept = {}
  for low, high in string.gmatch(gaps, '(%d+):(%d+)') do
    if tonumber(high) > (log.trimmed or 0) then
      kept[#kept + 1] = { low, high }
    end
  end
  while #kept > MAX_GAPS do
    table.remove(kept, 2)
  end
  for i, gap in ipairs(kept) do
    kept[i] = gap[1] .. ':' .. gap[2]
  end
  log.gaps = table.concat(kept, ',')
  refused = save(log)
end
if refused then
  if stored > 0 then
    -- No known server comes here: it would have refused above.
    refused.err = 'PARTLY ' .. refused.err
  elseif not was_there then
    redis.pcall('DEL', EVENTS, META, FACTS)
  end
  return refused
end

-- The events are stored. An error from here on would hide that.
if gone then
  remove(gone)
end
local expiry = log.closed and FINISHED or IDLE
for _, key in ipairs(KEYS) do
  if expiry then
    redis.pcall('PEXPIRE', key, text(expiry))
  elseif FINISHED then
    redis.pcall('PERSIST', key)
  end
end
return outcomes
