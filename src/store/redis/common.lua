-- What all scripts share. KEYS: the stream of events, the hash about the log, the hash of facts.
-- An entry's id is `<event id>-<milliseconds>`, so that a time costs no field of its own.
local EVENTS, META, FACTS = KEYS[1], KEYS[2], KEYS[3]

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

-- What is known of the log, nil if it was never written, was deleted or has expired.
local function load()
  local m = redis.call('HMGET', META, 'head', 'time', 'oldest', 'trimmed', 'closed', 'origin', 'gaps')
  if not m[1] then
    return nil
  end
  local log = {
    head = tonumber(m[1]),
    time = tonumber(m[2]),
    oldest = tonumber(m[3]),
    trimmed = tonumber(m[4]),
    closed = m[5] == '1',
    origin = m[6],
    gaps = m[7],
  }
  if log.oldest and redis.call('EXISTS', EVENTS) == 0 then
    -- Deleted or evicted on its own. The ids go on, and whoever missed something is told.
    log.oldest, log.trimmed, log.closed = nil, log.head, false
  end
  return log
end

local function save(log)
  redis.call('HSET', META, 'head', text(log.head), 'time', text(log.time),
    'oldest', log.oldest and text(log.oldest) or '', 'trimmed', log.trimmed and text(log.trimmed) or '',
    'closed', log.closed and '1' or '0', 'origin', log.origin, 'gaps', log.gaps)
end

-- Removes the oldest events, with their facts: those beyond `max`, those of `cutoff` or before,
-- those up to the id `last`. Says whether there were any.
local function trim(log, max, cutoff, last)
  local trimmed = log.trimmed
  local count = redis.call('XLEN', EVENTS)
  if not cutoff and not last and count <= (max or count) then
    return false
  end
  local chunk = 1
  while log.oldest do
    local gone, facts = nil, {}
    local entries = redis.call('XRANGE', EVENTS, '-', '+', 'COUNT', chunk)
    log.oldest = nil
    for _, entry in ipairs(entries) do
      local id, time = parse(entry)
      if not (max and count > max) and not (cutoff and time <= cutoff) and not (last and id <= last) then
        log.oldest = id
        break
      end
      gone, count = id, count - 1
      local fact = fields(entry).key
      if fact then
        facts[#facts + 1] = fact
      end
    end
    if #facts > 0 then
      redis.call('HDEL', FACTS, unpack(facts))
    end
    if gone then
      log.trimmed = gone
      redis.call('XTRIM', EVENTS, 'MINID', text(gone + 1))
    end
    if log.oldest or #entries == 0 then
      break
    end
    -- All of them went: look on, at more at a time.
    log.oldest = count > 0 and gone + 1 or nil
    chunk = math.min(chunk * 2, 64)
  end
  if not log.oldest then
    log.closed = false
  end
  return log.trimmed ~= trimmed
end

-- As `trim`, by age alone, for those who only read.
local function forget(log, age)
  if log and log.oldest and age ~= '' and trim(log, nil, (now()) - tonumber(age)) then
    save(log)
  end
end

