-- Keys that were lent so long ago that it is time to look whether they can come back (ending.lua). Of those that cannot the next
-- look is due when they have been away for twice as long.
--
-- Returns now, next due or false, ready, more, and of each its key and its loan: partition, space, number.

local MOST = 100
local LONGEST = 3600000 -- ms between two looks

call('HDEL', stats, '') -- a Redis that refuses writes refuses here, before anything was done
local found = {}
for _, key in ipairs(call('ZRANGEBYSCORE', recalls, '-inf', now, 'LIMIT', 0, MOST)) do
  local loan = call('HGET', lent, key)
  if loan then
    local away_for = now - floor(tonumber(loan:match('%d+$')) / 1000)
    call('ZADD', recalls, now + min(math.max(away_for, 1000), LONGEST), key)
    found[#found + 1], found[#found + 2] = key, loan
  else
    call('ZREM', recalls, key)
  end
end

local t, due, ready, left = standing()
return {t, due, ready, left, found}
