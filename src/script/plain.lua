-- What a lane gathered, as batch.lua serves it, in a queue that holds nothing but normal jobs without a past, where nobody waits:
-- first deliveries acknowledged, then jobs without options pushed, then jobs popped. So it is with most calls of most queues, and
-- this is what they cost: it has no prelude, no function and few keys, as a call pays for each, used or not. It looks first for
-- anything unusual; if there is any it does nothing, and the lane calls batch.lua, under the same number. Its records and its replies
-- are those of batch.lua too.
--
-- KEYS: jobs, ready:normal, leases, stats, lane; then those of which none may exist (prelude.lua says what is in them).
-- ARGV: sequence; that of an earlier call that must have been applied, 0: none; the version of the settings; how many names are
-- acknowledged, jobs pushed, and jobs asked for, and how many must be there, as somebody would wait otherwise; then the names;
-- suffix, payload of each push; jobs, lease of each run of pops.
-- Returns what batch.lua does, and then the microseconds that a large call took, 0: not measured; or NOT PLAIN.

local call, unpack, format = redis.call, unpack, string.format
local ARGV = ARGV
local jobs, normal, leases, stats, lane = unpack(KEYS, 1, 5)
local acking, pushing, needed = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[7])

local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)

-- Numbers go to Redis as text: of those of Lua it takes long to make some.
local known = call('HMGET', stats, 'stamp', 'pushed', 'acked', 'cfg', 'n')
local last = tonumber((call('GETRANGE', lane, '0', '20'):match('^%d+'))) or 0
local first_end = tonumber(call('ZRANGE', leases, '0', '0', 'WITHSCORES')[2])
local ready = call('LLEN', normal)
if last >= tonumber(ARGV[1]) or last < tonumber(ARGV[2]) or (known[4] or '') ~= ARGV[3] or (known[5] or '0') ~= '0'
  or (first_end or now + 1) <= now or ready + pushing < needed or call('EXISTS', unpack(KEYS, 6)) > 0
then
  return {'NOT PLAIN'}
end

-- Of a call's writes the first may be refused, because Redis takes none, or none that takes memory. It is that of the
-- acknowledgements, if there are any.
local places, acked = {}, acking == 0 and 0
if acking > 0 then
  local first, n = 8, acking
  --@include acks
end
if not acked then
  return {'NOT PLAIN'}
end

local pushed, at = '', 8 + acking
if pushing > 0 then
  local stamp = math.max(now_us, (tonumber(known[1]) or 0) + 1)
  local write = acking == 0 and redis.pcall or call
  local written = write('HSET', stats, 'stamp', format('%.0f', stamp), 'pushed',
    format('%.0f', (tonumber(known[2]) or 0) + pushing), 'acked', format('%.0f', (tonumber(known[3]) or 0) + acked))
  if type(written) ~= 'number' then
    return {'NOT PLAIN'}
  end
  --@include stamp
  local ids = {}
  for i = 1, pushing do
    local id = pushed .. ARGV[at]
    ARGV[at], ids[i] = id, id
    at = at + 2
  end
  call('HSET', jobs, unpack(ARGV, 8 + acking, at - 1))
  ready = call('RPUSH', normal, unpack(ids))
elseif acked > 0 then
  call('HINCRBY', stats, 'acked', acked)
end

local ids, payloads, due = {}, {}, first_end
if ARGV[6] ~= '0' then
  ids = call('LPOP', normal, ARGV[6]) or ids
end
if #ids > 0 then
  ready = ready - #ids
  payloads = call('HMGET', jobs, unpack(ids))
  for i = #ids, 1, -1 do
    if not payloads[i] then
      table.remove(ids, i) -- an entry without a job: nobody's
      table.remove(payloads, i)
    end
  end

  -- Redis keeps a small sorted set as a plain list, which is slower (batch.lua).
  local LONG = '-----------------------------------------------------------------'
  local is_new = not first_end or (acked > 0 and call('EXISTS', leases) == 0)
  local entries, k, served = {}, 0, 0
  while served < #ids do
    local end_, until_then = now + tonumber(ARGV[at + 1]), nil
    until_then = format('%.0f', end_)
    due = math.min(due or end_, end_)
    if is_new and k == 0 then
      entries[1], entries[2], k = until_then, LONG, 2
    end
    for i = served + 1, math.min(#ids, served + tonumber(ARGV[at])) do
      entries[k + 1], entries[k + 2] = until_then, ids[i]
      k = k + 2
      served = i
    end
    at = at + 2
  end
  if served > 0 then
    call('ZADD', leases, unpack(entries, 1, k))
  end
  if is_new and served > 0 then
    call('ZREM', leases, LONG)
  end
end

local outcome = ARGV[1] .. '\n' .. pushed .. '\n' .. table.concat(places, ' ') .. '\n'
call('SET', lane, outcome .. table.concat(ids, ' '), 'PX', '600000')
local spent = 0
if acking + pushing + #ids >= 100 then
  time = call('TIME')
  spent = time[1] * 1000000 + time[2] - now_us
end
return {now, due or false, ready, 64, pushed, places, ids, payloads, false, math.max(spent, 0)}
