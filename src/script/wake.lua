--@include tell
-- Calls the worker that has waited longest, which leaves the list; if nobody heard, the next one. With `before`: only another
-- worker than this one, and only if it has waited since then. True: one was called.
local CALLS = 16
local function wake_one(before)
  local worker, queue = ARGV[1]:match('^(%S+) %S+ (%S+)$')
  for _ = 1, CALLS do
    local longest, since = unpack(call('ZRANGE', waiting, 0, 0, 'WITHSCORES'))
    if not longest or before and (longest == worker or tonumber(since) > before) then
      return false
    end
    call('ZREM', waiting, longest)
    if tell(longest, queue) > 0 then
      return true
    end
  end
end

-- Calls everybody, for settings that are not what they were.
local function wake_all()
  local queue = ARGV[1]:match('%S+$')
  for _, worker in ipairs(call('ZRANGE', waiting, 0, -1)) do
    tell(worker, queue)
  end
  call('UNLINK', waiting)
end
