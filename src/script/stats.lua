-- How a queue stands: QLEN and QSTATS. Brings back what is due first, so that it counts as ready; while `more` is 1 the
-- figures are not final.
--
-- Returns now, next due or false, ready, more, whether the queue was ever pushed to (1 or 0), urgent, high, normal, low,
-- delayed, leased, dead, ms for which the longest ready job has been so, pushed, acked, nacked, expired, deduplicated,
-- redriven.

--@include upkeep
bring_back()

-- A list stands in the order in which its jobs took their place at its back, so that its first live job is its oldest.
-- Tombstones before that one go, a bounded number.
local TOMBSTONES = 500
local passed = 0

local function ready_since(letter)
  local id, record, gone = first_in_line(letter, TOMBSTONES - passed)
  passed = passed + gone
  more = more or passed >= TOMBSTONES
  return id and (record.t or floor(tonumber(sub(id, 1, 10), 36) / 1000)) or now
end

-- Of those that wait behind their groups the one pushed first stands for its priority.
local function behind_since(letter)
  local id = call('ZRANGEBYSCORE', behind, RANK[letter], RANK[letter], 'LIMIT', 0, 1)[1]
  return id and (recall(id).t or floor(tonumber(sub(id, 1, 10), 36) / 1000)) or now
end

local oldest = now
for letter in pairs(lists) do
  oldest = min(oldest, ready_since(letter), behind_since(letter))
end

local function all_ready_in(letter)
  return ready_in(letter) + call('ZCOUNT', behind, RANK[letter], RANK[letter])
end

settle()
local t, due, ready, left = standing()
local counters = call('HMGET', stats, 'stamp', 'pushed', 'acked', 'nacked', 'expired', 'deduplicated', 'redriven')
for i = 2, 7 do
  counters[i] = tonumber(counters[i] or 0)
end
return {
  t, due, ready, left, counters[1] and 1 or 0, all_ready_in('u'), all_ready_in('h'), all_ready_in('n'),
  all_ready_in('l'), call('ZCARD', delayed), call('ZCARD', leases), call('ZCARD', dead), now - oldest, unpack(counters, 2),
}
