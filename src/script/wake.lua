-- Calls the worker that has waited longest, which leaves the list; if nobody heard, the next one.
local CALLS = 16
local function wake_one()
  local channel, queue = ARGV[1]:match('^%S+ (%S+) (%S+)$')
  for _ = 1, CALLS do
    local longest = call('ZPOPMIN', waiting)[1]
    if not longest or call('PUBLISH', channel .. longest, queue) > 0 then
      return
    end
  end
end
