-- Overrides of a queue's settings: QCONFIG SET, QPAUSE, QRESUME. Every worker learns of them by its next call, whose settings
-- are then of an old version; those that wait are called, as a limit or a pause may be gone.
--
-- ARGV after the prelude's: field, value, field, value …; an empty value takes the override away.
-- Returns now, next due or false, ready, more.

if not before then
  call('HDEL', stats, '') -- a Redis that refuses writes refuses here, before anything was done
  for i = 4, #ARGV, 2 do
    if ARGV[i + 1] == '' then
      call('HDEL', overrides, ARGV[i])
    else
      call('HSET', overrides, ARGV[i], ARGV[i + 1])
    end
  end
  -- A time, not a count: a queue that was dropped and made anew must not come to a version that it had before.
  call('HSET', stats, 'cfg', ('%.0f'):format(now_us))
  call('SET', lane, sequence .. '\n', 'PX', KEPT)

  local channel, queue = ARGV[1]:match('^%S+ (%S+) (%S+)$')
  for _, worker in ipairs(call('ZRANGE', waiting, 0, -1)) do
    call('PUBLISH', channel .. worker, queue)
  end
  call('UNLINK', waiting)
end
return {standing()}
