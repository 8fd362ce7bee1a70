-- Removes events. ARGV: the id of the last one that is to go.
local log = load()
if log and log.oldest and trim(log, nil, nil, tonumber(ARGV[1])) then
  save(log)
end
return redis.status_reply('OK')
