-- Which queues have repeated jobs: what the keepers of all proxies know of (src/queue/crons.rs). It stands apart from the queues, in
-- T:cron of a name that no queue can have. All keepers listen to one channel, on which they are told when it changes.
--
-- ARGV after the prelude's: what is asked, and its words:
--   add queue             it has entries, or others than before
--   forget queue version  it has none any more; not if it was added since that version
--   read cursor           queues and their versions, as HSCAN
-- Returns now, next due or false, ready, more, then of read: the next cursor, and queue, version for each.

local asked, queue = ARGV[4], ARGV[5]
local found = {false, {}}
if asked == 'add' then
  call('HSET', cron, queue, ('%.0f'):format(now_us))
  --@include tell
  tell('keepers', ARGV[1]:match('%S+$'))
elseif asked == 'forget' then
  if call('HGET', cron, queue) == ARGV[6] then
    call('HDEL', cron, queue)
  end
else
  found = call('HSCAN', cron, ARGV[5], 'COUNT', 200)
end
local t, due, ready, left = standing()
local reply = {t, due, ready, left, found[1]}
for _, word in ipairs(found[2]) do
  reply[#reply + 1] = word
end
return reply
