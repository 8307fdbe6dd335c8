-- Overrides of a queue's settings: QCONFIG SET, QPAUSE, QRESUME, and the first push, which spreads a queue over several
-- partitions. Only partition 0 is configured; the others get its settings as a whole (copy.lua). Every worker learns of them
-- by its next call, whose settings are then of an old version; those that wait are called, as a limit or a pause may be gone,
-- or there are new partitions to wait in.
--
-- ARGV after the prelude's: field, value, field, value …; an empty value takes the override away. A * in `spread` becomes
-- the number over which groups and unique keys are hashed: as many as there are partitions, but 1 where there may be groups
-- or keys already, which stay where they are.
-- Returns now, next due or false, ready, more.

if not before then
  call('HDEL', stats, '') -- a Redis that refuses writes refuses here, before anything was done
  for i = 4, #ARGV, 2 do
    local value = ARGV[i + 1]
    if ARGV[i] == 'spread' then
      local settled = call('EXISTS', unique, groups, delayed, dead) > 0
      value = value:gsub('%*', settled and '1' or value:match('^%d+'))
    end
    if value == '' then
      call('HDEL', overrides, ARGV[i])
    else
      call('HSET', overrides, ARGV[i], value)
    end
  end
  -- A time, not a count: a queue that was dropped and made anew must not come to a version that it had before.
  call('HSET', stats, 'cfg', ('%.0f'):format(math.max(now_us, (tonumber(version) or 0) + 1)))
  call('SET', lane, sequence .. '\n', 'PX', KEPT)

  --@include wake
  wake_all()
end
return {standing()}
