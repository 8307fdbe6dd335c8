-- What becomes of keys that belong here (ending.lua): they are lent to the partitions that want them, or are here again. A repeat
-- comes to the same.
--
-- ARGV after the prelude's, for each of them: the key; the partition that wants it, empty if that is this one; the loan that was
-- given back, empty if none was; a number that a new loan must exceed; 1 if a push wants it, which counts as deduplicated if a job
-- here holds it.
-- Returns now, next due or false, ready, more, and for each key = and the id of the job that holds it here; or the loan by which
-- it is lent, to whomever: partition, space, number; or nothing: it is here.

local FIRST = 1000 -- ms after which it is looked whether a key can come back

--@include upkeep
call('HDEL', stats, '') -- a Redis that refuses writes refuses here, before anything was done
bring_back()

local answers = {}
for i = 4, #ARGV, 5 do
  local key, wanted, given_back, past, for_push = unpack(ARGV, i, i + 4)
  local loan = call('HGET', lent, key)
  if loan and loan ~= given_back then
    insert(answers, loan)
  elseif wanted == '' then
    call('HDEL', lent, key)
    call('ZREM', recalls, key)
    insert(answers, '')
  elseif holder(key) then
    count('deduplicated', tonumber(for_push))
    insert(answers, '=' .. holder(key))
  else
    local last = math.max(tonumber(past), tonumber(given_back:match('%d*$')) or 0, tonumber(version) or 0)
    loan = wanted .. ' ' .. ('%.0f'):format(math.max(now_us, last + 1))
    call('HSET', lent, key, loan)
    call('ZADD', recalls, now + FIRST, key)
    insert(answers, loan)
  end
end

return finish(answers)
