-- The parts that all scripts share. KEYS: the stream of events, the hash about the log, the hash of
-- facts. An entry's id is `<event id>-<milliseconds>`, so that a time costs no field of its own.
--
-- The hash about the log is the truth. If it says that an event was trimmed, its entry and its fact
-- count as absent, and may be removed later.
local EVENTS, META, FACTS = KEYS[1], KEYS[2], KEYS[3]
-- A field of the facts that shows that they are there. No key equals it: keys are UTF-8.
local MARK = '\255'
-- More than a stream can have.
local NO_LIMIT = '4294967296'

-- A number as an argument: Lua itself writes large ones as 1e+15.
local function text(number)
  return string.format('%.0f', number)
end

-- In milliseconds, and in microseconds.
local function now()
  local time = redis.call('TIME')
  local microseconds = time[1] * 1000000 + time[2]
  return math.floor(microseconds / 1000), microseconds
end

local function parse(entry)
  local id, time = string.match(entry[1], '^(%d+)-(%d+)$')
  return tonumber(id), tonumber(time)
end

local function fields(entry)
  local all = {}
  for i = 1, #entry[2], 2 do
    all[entry[2][i]] = entry[2][i + 1]
  end
  return all
end

-- An error as a reply that says which command was refused. Servers before 7.0 put the place in the
-- script before the error's code.
local function refused(message, command)
  message = string.gsub(message, '^@?user_script: ?%d+: ', '')
  message = string.gsub(string.gsub(message, '^%-', ''), '%s+$', '')
  if not string.match(message, '^%u+ ') then
    message = 'ERR ' .. message
  end
  return { err = message .. ' (' .. command .. ')' }
end

-- Runs a command, and returns only its error, if there is one.
local function refusal(command, ...)
  local answer = redis.pcall(command, ...)
  if type(answer) == 'table' and answer.err then
    return refused(answer.err, command)
  end
end

-- Returns what is known of the log: nil if it was never written, was deleted or has expired.
local function load()
  local m = redis.call('HMGET', META, 'head', 'time', 'oldest', 'trimmed', 'closed', 'origin', 'gaps', 'facts')
  local entries = redis.call('XLEN', EVENTS)
  if not m[1] then
    return nil
  end
  local log = {
    head = tonumber(m[1]),
    time = tonumber(m[2]) or 0,
    oldest = tonumber(m[3]),
    trimmed = tonumber(m[4]),
    closed = m[5] == '1',
    origin = m[6] or '',
    gaps = m[7] or '',
    has_facts = m[8] == '1',
  }
  if log.oldest and entries == 0 then
    -- The stream alone was deleted or evicted: readers see a log whose events were all trimmed,
    -- until the next append begins it again.
    log.is_lost = true
    log.oldest, log.trimmed, log.closed = nil, log.head, false
  end
  return log
end

-- Returns the error if the server refuses it.
local function save(log)
  return refusal('HSET', META, 'head', text(log.head), 'time', text(log.time),
    'oldest', log.oldest and text(log.oldest) or '', 'trimmed', log.trimmed and text(log.trimmed) or '',
    'closed', log.closed and '1' or '0', 'origin', log.origin, 'gaps', log.gaps,
    'facts', log.has_facts and '1' or '0')
end

-- Marks the oldest events as trimmed: those beyond `max`, those of `cutoff` or before, those up to
-- the id `last`. Writes nothing. Returns the work for `remove` once the log is saved, or nil if
-- there is none.
local function trim(log, max, cutoff, last)
  local gone = { entries = redis.call('XLEN', EVENTS), facts = {} }
  if not log.oldest or (not cutoff and not last and gone.entries <= (max or gone.entries)) then
    return nil
  end
  local from, chunk, oldest = '-', 1, nil
  while from do
    local entries = redis.call('XRANGE', EVENTS, from, text(log.head), 'COUNT', chunk)
    from = nil
    for _, entry in ipairs(entries) do
      local id, time = parse(entry)
      local was_trimmed = log.trimmed and id <= log.trimmed
      if not (was_trimmed or (max and gone.entries > max) or (cutoff and time <= cutoff) or (last and id <= last)) then
        from, oldest = nil, id
        break
      end
      gone.last, gone.entries = id, gone.entries - 1
      gone.facts[#gone.facts + 1] = fields(entry).key
      from = text(id + 1)
    end
    -- All of them are to be removed: look further, at more at a time.
    chunk = math.min(chunk * 2, 64)
  end
  if not gone.last then
    return nil
  end
  log.oldest, log.trimmed = oldest, math.max(gone.last, log.trimmed or 0)
  if not oldest then
    log.closed = false
  end
  return gone
end

-- Runs the commands of a removal without effect, and returns the error if one is refused. A full
-- memory does not refuse them, nor anything after them in the same script.
local function removal_refused()
  return refusal('XTRIM', EVENTS, 'MAXLEN', NO_LIMIT) or refusal('HDEL', META, '')
end

-- Removes trimmed events, after the log was saved. By their number, since the command that takes an
-- id needs Redis 6.2. The next removal repeats what is refused here.
local function remove(gone)
  redis.pcall('XTRIM', EVENTS, 'MAXLEN', text(gone.entries))
  for _, key in ipairs(gone.facts) do
    local fact = redis.pcall('HGET', FACTS, key)
    -- The fact may be of a later event with the same key.
    if type(fact) == 'string' and tonumber(string.match(fact, '^%d+')) <= gone.last then
      redis.pcall('HDEL', FACTS, key)
    end
  end
end

-- Trims by age alone, as `trim` does, for readers. If they may not write, the page is right all the
-- same.
local function forget(log, age)
  if not log or age == '' then
    return
  end
  local gone = trim(log, nil, (now()) - tonumber(age))
  if gone and not (removal_refused() or save(log)) then
    remove(gone)
  end
end

