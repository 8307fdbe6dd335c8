-- Removes a partition with all that it has, its settings and counters too: QDROP. Redis frees large keys beside its work
-- (UNLINK), so that one call does it. Who waits for jobs is called, and waits on.
--
-- ARGV after the prelude's: the version of the settings that the queue had when it was to be dropped. If they are later ones
-- the partition belongs to a queue that was made since, and stays.
-- Returns now, next due or false, ready, more, 1 if there was anything, else 0.

local dropped = before
if not before and (tonumber(version) or 0) > (tonumber(ARGV[4]) or 0) then
  dropped = 0
elseif not before then
  --@include wake
  local queue = ARGV[1]:match('%S+$')
  for _, member in ipairs(call('ZRANGE', awaited, 0, -1)) do
    local id, worker = member:match('^(%S+) (%S+)$')
    tell(worker, queue .. ' =' .. id)
  end
  wake_all()
  dropped = call('UNLINK', stats, overrides, jobs, meta, urgent, high, normal, low, delayed, leases, dead, expiry, unique,
    holds, awaited, results, result_ends, groups, behind, buckets, throttled, sift, sifted, lent, recalls, cron, ticks)
  dropped = min(dropped, 1)
  tombstones = {}
  call('SET', lane, sequence .. '\n' .. dropped, 'PX', KEPT)
end
local t, due, ready, left = standing()
return {t, due, ready, left, tonumber(dropped)}
