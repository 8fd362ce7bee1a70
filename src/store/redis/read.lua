-- A page. ARGV: the id after which to read ('' for none), the most events, the most bytes of data,
-- the most milliseconds that events are kept ('' for no limit), the most bytes of the reply.
-- Returns nothing for a log that does not exist, else head, oldest, trimmed (0 for none), '1' if it
-- is closed; then for each event its id, time, type and data, or how many bytes the first one needs
-- if that is more than the reply may have.
local AFTER, EVENTS_LIMIT, BYTES_LIMIT, REPLY_LIMIT = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[5])
local CHUNK = 16
-- The overhead of an event in the reply, beside its type and data: at least what RESP takes.
local OVERHEAD = 64

local log = load()
forget(log, ARGV[4])
if not log then
  return {}
end
local trimmed = log.trimmed or 0
if AFTER then
  for low, high in string.gmatch(log.gaps, '(%d+):(%d+)') do
    -- The log never had this position: its event was lost.
    if AFTER > tonumber(low) and AFTER < high - 1 then
      trimmed = math.max(trimmed, high - 1)
    end
  end
end
local page = { log.head, log.oldest or 0, trimmed, log.closed and 1 or 0 }

local from = math.max((AFTER or 0) + 1, log.oldest or log.head + 1)
local events, bytes, size, chunk = 0, 0, 0, 1
while from <= log.head and events < EVENTS_LIMIT do
  local entries = redis.call('XRANGE', EVENTS, text(from), text(log.head), 'COUNT', math.min(EVENTS_LIMIT - events, chunk))
  if #entries == 0 then
    break
  end
  for _, entry in ipairs(entries) do
    local id, time = parse(entry)
    local event = fields(entry)
    bytes, size = bytes + #event.data, size + #event.type + #event.data + OVERHEAD
    if events > 0 and (bytes > BYTES_LIMIT or size > REPLY_LIMIT) then
      return page
    end
    if size > REPLY_LIMIT then
      page[#page + 1] = size
      return page
    end
    events = events + 1
    page[#page + 1] = id
    page[#page + 1] = time
    page[#page + 1] = event.type
    page[#page + 1] = event.data
    from = id + 1
  end
  -- Few at first, since they may be large.
  chunk = math.min(chunk * 4, CHUNK)
end
return page
