-- Gives keys back that were lent to this partition, if nobody holds them here (ending.lua). A repeat comes to the same.
--
-- ARGV after the prelude's: 1 if a push wants them, which counts as deduplicated if it cannot have them; then of each the key and the
-- number of its loan.
-- Returns now, next due or false, ready, more, and for each key the id of the job that holds it; or nothing: it was given back.

--@include upkeep
call('HDEL', stats, '') -- a Redis that refuses writes refuses here, before anything was done
bring_back()

local returned, answers = tonumber(call('HGET', stats, 'returned')) or 0, {}
for i = 5, #ARGV, 2 do
  local held_by = holder(ARGV[i])
  if not held_by then
    returned = math.max(returned, tonumber(ARGV[i + 1]))
  else
    count('deduplicated', tonumber(ARGV[4]))
  end
  insert(answers, held_by or '')
end
call('HSET', stats, 'returned', ('%.0f'):format(returned))

return finish(answers)
