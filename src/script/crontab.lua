-- Which queues have repeated jobs: what the keepers of all proxies know of (src/queue/crons.rs). It stands apart from the queues, in
-- T:cron of a name that no queue can have; a keeper that has asked is told when it changes, as one that waits.
--
-- ARGV after the prelude's: what is asked, and its words:
--   add queue             it has entries, or others than before
--   forget queue version  it has none any more; not if it was added since that version
--   read cursor           queues and their versions, as HSCAN; the worker is told of changes from now on, if there are any yet
-- Returns now, next due or false, ready, more, then of read: the next cursor, and queue, version for each.

local KEEPERS = 60000 -- ms for which one that asked is told

local asked, queue = ARGV[4], ARGV[5]
local found = {false, {}}
if asked == 'add' then
  call('HSET', cron, queue, ('%.0f'):format(now_us))
  --@include tell
  local name = ARGV[1]:match('%S+$')
  for _, worker in ipairs(call('ZRANGE', waiting, 0, -1)) do
    if tell(worker, name) == 0 then
      call('ZREM', waiting, worker)
    end
  end
elseif asked == 'forget' then
  if call('HGET', cron, queue) == ARGV[6] then
    call('HDEL', cron, queue)
  end
else
  if call('EXISTS', cron) == 1 then
    call('ZADD', waiting, now, ARGV[1]:match('^%S+'))
    call('ZREMRANGEBYSCORE', waiting, '-inf', now - KEEPERS)
  elseif call('EXISTS', waiting) == 1 then
    call('UNLINK', waiting)
  end
  found = call('HSCAN', cron, ARGV[5], 'COUNT', 200)
end
local t, due, ready, left = standing()
local reply = {t, due, ready, left, found[1]}
for _, word in ipairs(found[2]) do
  reply[#reply + 1] = word
end
return reply
