-- Removes events. ARGV: the id of the last event to remove.
local log = load()
local gone = log and trim(log, nil, nil, tonumber(ARGV[1]))
if gone then
  local refused = removal_refused() or save(log)
  if refused then
    return refused
  end
  remove(gone)
end
return redis.status_reply('OK')
