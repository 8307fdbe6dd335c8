-- Makes jobs ready, at the back of their priority: QREDRIVE dead ones, with their attempts at zero, and QPROMOTE delayed
-- ones. A bounded number a call.
--
-- ARGV after the prelude's: from where (dead or delayed); how many, from the first on; ids instead, if that is 0.
-- Returns now, next due or false, ready, more, how many were made ready, and of those whose unique key is elsewhere by now (see
-- ending.lua) the id and the key of each.

--@include upkeep
if before then
  local t, due, ready, left = standing()
  local revived, keyless = before:match('^(%d+)(.*)$')
  return {t, due, ready, left, tonumber(revived), keyless == '' and {} or unpacked(keyless)}
end
call('HDEL', stats, '') -- a Redis that refuses writes refuses here, before anything was done
bring_back()

local from, most = ARGV[4], tonumber(ARGV[5])
local place = from == 'dead' and dead or delayed
local ids = {unpack(ARGV, 6)}
if most > 0 then
  ids = call('ZRANGE', place, 0, most - 1)
end

local revived, keyless = 0, {}
for _, id in ipairs(ids) do
  if call('ZREM', place, id) == 1 then
    local record = recall(id)
    revived = revived + 1
    record.t = now
    if from == 'dead' then
      record.n, record.s = nil, nil
      count('redriven', 1)
    end
    if lapsed_at(record, now) then
      expire(id, record)
    else
      if take_again(id, record) then
        insert(keyless, id)
        insert(keyless, record.u)
      end
      remember(id, record)
      if record.g then
        enter(id, record)
      else
        call('RPUSH', lists[sub(id, -1)], id)
      end
      if record.x then
        call('ZADD', expiry, record.x, id)
      end
    end
  end
end

call('SET', lane, sequence .. '\n' .. revived .. (keyless[1] and pack(keyless) or ''), 'PX', KEPT)
return finish(revived, keyless)
