-- What became of a job: QRESULT. Whoever waits for it is noted, and is told by the call that ends the job.
--
-- ARGV after the prelude's: id; 1 if the client waits.
-- Returns now, next due or false, ready, more, the result or false, 1 if the job has not ended yet.

--@include upkeep
bring_back()
settle()

local id, waits = ARGV[4], ARGV[5] == '1'
local kept_until = tonumber(call('ZSCORE', result_ends, id))
local result = kept_until and kept_until > now and call('HGET', results, id)
local open = not result and not has_ended(id)
if open and waits then
  call('ZADD', awaited, 0, id .. ' ' .. ARGV[1]:match('^%S+'))
end
local t, due, ready, left = standing()
return {t, due, ready, left, result or false, open and 1 or 0}
