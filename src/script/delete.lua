-- Removes jobs, whatever their state: QDEL. The lane asks for a bounded number.
--
-- ARGV after the prelude's: ids.
-- Returns now, next due or false, ready, more, how many were removed. Upkeep that is left is no reason to call again.

--@include upkeep
if before then
  local t, due, ready, left = standing()
  return {t, due, ready, left, tonumber(before)}
end
call('HDEL', stats, '') -- a Redis that refuses writes refuses here, before anything was done
bring_back()

local removed = 0
for i = 4, #ARGV do
  local id = ARGV[i]
  local record = recall(id)
  if call('HDEL', jobs, id) == 1 then
    removed = removed + 1
    local stood = call('ZREM', leases, lease_name(id, record)) + call('ZREM', delayed, id) + call('ZREM', dead, id)
      + call('ZREM', behind, id)
    if stood == 0 then
      count(sub(id, -1), 1)
    end
    call('ZREM', expiry, id)
    call('HDEL', meta, id)
    ended(id, record)
  end
end

call('SET', lane, sequence .. '\n' .. removed, 'PX', KEPT)
return finish(removed)
