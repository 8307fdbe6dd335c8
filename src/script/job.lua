-- One job: QJOB. Brings back what is due first; while `more` is 1 the job may not be in its last state.
--
-- ARGV after the prelude's: id.
-- Returns now, next due or false, ready, more, then nothing, or: id, state (ready delayed leased dead), the ms it is due,
-- its lease ends or it died (false: ready), payload, meta record or false.

--@include upkeep
bring_back()
settle()

local id = ARGV[4]
local t, due, ready, left = standing()
local payload = call('HGET', jobs, id)
if not payload then
  return {t, due, ready, left}
end

local places = {
  {'leased', call('ZSCORE', leases, lease_name(id, recall(id)))},
  {'delayed', call('ZSCORE', delayed, id)},
  {'dead', call('ZSCORE', dead, id)},
  {'ready', '0'},
}
for _, place in ipairs(places) do
  if place[2] then
    local ms = place[1] ~= 'ready' and tonumber(place[2])
    return {t, due, ready, left, id, place[1], ms, payload, call('HGET', meta, id)}
  end
end
