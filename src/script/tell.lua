-- Tells a worker something on its own channel; how many heard it. A channel with a hash tag is a sharded one: of a cluster only
-- the nodes of its slot carry what is said there. Where the server has none of these (before 7.0) nobody hears.
local function tell(worker, message)
  local channel = ARGV[1]:match('^%S+ (%S+)')
  local verb = find(channel, '{', 1, true) and 'SPUBLISH' or 'PUBLISH'
  return tonumber(redis.pcall(verb, channel .. worker, message)) or 0
end
