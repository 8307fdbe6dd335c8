-- The repeated jobs of a queue: QCRON, and what the keeper of a proxy asks when one is due (src/queue/crons.rs). They are kept in
-- partition 0. The push of a tick itself is made by batch.lua.
--
-- ARGV after the prelude's: what is asked, and its words:
--   add name words tick   an entry: the words of the QCRON ADD, and the ms of its first tick
--   del name              also what another partition remembers of it
--   list from             the entries from there on, a bounded number, by their next tick
--   due                   those whose tick is due, a bounded number
-- Returns now, next due or false, ready, more, then of add 1 or 0 (there are as many as may be), of del how many were removed; of
-- list and due: the ms of the first tick that is not due or false, whether there are more (1 or 0), then for each entry name,
-- tick, the partition that it goes to unless it belongs to a certain one, words, last tick or false.

local ENTRIES = 1000 -- of a queue
local TOLD, BYTES = 16, 262144 -- entries and bytes of one reply; a single one may have more

local asked, name = ARGV[4], ARGV[5]

local function add()
  if call('HEXISTS', cron, 'w' .. name) == 0 and call('ZCARD', ticks) >= ENTRIES then
    return 0
  end
  call('HSET', cron, 'w' .. name, ARGV[6])
  call('HDEL', cron, 'l' .. name, 'p' .. name)
  call('ZADD', ticks, ARGV[7], name)
  return 1
end

local function del()
  call('HDEL', cron, 'w' .. name, 'l' .. name, 'p' .. name)
  return call('ZREM', ticks, name)
end

if asked == 'add' or asked == 'del' then
  local came_to = before or (asked == 'add' and add() or del())
  if not before then
    call('SET', lane, sequence .. '\n' .. came_to, 'PX', KEPT)
  end
  local t, due, ready, left = standing()
  return {t, due, ready, left, tonumber(came_to)}
end

local t, due, ready, left = standing()
local reply = {t, due, ready, left, false, 0}
local entries
if asked == 'due' then
  entries = call('ZRANGEBYSCORE', ticks, '-inf', now, 'WITHSCORES', 'LIMIT', 0, TOLD + 1)
  reply[5] = tonumber(call('ZRANGEBYSCORE', ticks, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]) or false
else
  entries = call('ZRANGE', ticks, ARGV[5], ARGV[5] + TOLD, 'WITHSCORES')
end
local bytes = 0
for i = 1, #entries, 2 do
  local words, place, last = unpack(call('HMGET', cron, 'w' .. entries[i], 'p' .. entries[i], 'l' .. entries[i]))
  words = words or ''
  bytes = bytes + #words
  if i > 2 * TOLD or (i > 1 and bytes > BYTES) then
    reply[6] = 1
    break
  end
  for _, part in ipairs({entries[i], tonumber(entries[i + 1]), tonumber(place or 0), words, last}) do
    reply[#reply + 1] = part
  end
end
return reply
