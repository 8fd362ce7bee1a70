-- The position before a time. ARGV: the milliseconds, the most milliseconds that events are kept
-- ('' for no limit). Returns the id of the newest event before that time, 0 for none.
local log = load()
forget(log, ARGV[2])
if not log or not log.oldest then
  return 0
end
-- Times never decrease with ids. If an id is missing, the next one answers for it.
local time = tonumber(ARGV[1])
local low, high = log.oldest, log.head + 1
while low < high do
  local middle = low + math.floor((high - low) / 2)
  local entry = redis.call('XRANGE', EVENTS, text(middle), text(log.head), 'COUNT', 1)[1]
  local id, stored = nil, nil
  if entry then
    id, stored = parse(entry)
  end
  if id and stored < time then
    low = id + 1
  else
    high = middle
  end
end
local entry = redis.call('XREVRANGE', EVENTS, text(low - 1), text(log.oldest), 'COUNT', 1)[1]
return entry and parse(entry) or 0
