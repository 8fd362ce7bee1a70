-- A page. ARGV: the id after which to read ('' for none), the most events, the most bytes of data,
-- the most milliseconds that events are kept ('' for no limit).
-- Returns nothing for a log that does not exist, else head, oldest, trimmed (0 for none), '1' if it
-- is closed; then for each event its id, time, type and data.
local AFTER, EVENTS_LIMIT, BYTES_LIMIT = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local CHUNK = 16

local log = load()
forget(log, ARGV[4])
if not log then
  return {}
end
local trimmed = log.trimmed or 0
if AFTER then
  for low, high in string.gmatch(log.gaps, '(%d+):(%d+)') do
    -- A position that this log never had: its event was lost.
    if AFTER > tonumber(low) and AFTER < high - 1 then
      trimmed = math.max(trimmed, high - 1)
    end
  end
end
local page = { log.head, log.oldest or 0, trimmed, log.closed and 1 or 0 }

local after = AFTER or 0
local events, bytes = 0, 0
while after < log.head and events < EVENTS_LIMIT do
  local entries = redis.call('XRANGE', EVENTS, text(after + 1), '+', 'COUNT', math.min(EVENTS_LIMIT - events, CHUNK))
  if #entries == 0 then
    break
  end
  for _, entry in ipairs(entries) do
    local id, time = parse(entry)
    local event = fields(entry)
    bytes = bytes + #event.data
    if events > 0 and bytes > BYTES_LIMIT then
      return page
    end
    events = events + 1
    page[#page + 1] = id
    page[#page + 1] = time
    page[#page + 1] = event.type
    page[#page + 1] = event.data
    after = id
  end
end
return page
