-- What every script of a queue begins with: its keys, its clock, and the upkeep that comes before all else.
-- The loader puts this file in front of each of the others, so that it is one chunk with them.
--
-- KEYS, all of one partition and so of one hash tag, T = <prefix>:{<queue>/<partition>}:
--   T:jobs    hash  id → payload, byte for byte. A job exists as long as it stands here, and no longer.
--   T:meta    hash  id → what is to be remembered of a job that has a past or options, as a MessagePack map
--                   (n nacks, s lapses, t ready since or from, x expires at, r retries, b backoff, m longest backoff,
--                   l lease, e error). A plain waiting job has none.
--   T:ready:urgent, :high, :normal, :low   lists of ids, the head is served first
--   T:delayed zset  id, due ms
--   T:leases  zset  lease name, end ms. The name is the id on its first delivery, id.n on its n-th: a receipt of an
--                   earlier delivery names no member, and so can do nothing to the job.
--   T:dead    zset  id, ms of its death
--   T:expiry  zset  id, ms: the ready and delayed jobs that have a TTL
--   T:stats   hash  stamp: the last one given out; due: what the waiting workers were told; counters; and for each
--                   priority the number of tombstones, ids in its list whose job was deleted or has expired
--   T:waiting zset  worker, ms since when it waits for a job
--   T:lane:<worker> string  the last sequence applied and its outcome, for a while
-- A job's state follows from where its id stands, and is written nowhere else: in leases, delayed or dead, otherwise
-- in its ready list.
--
-- ARGV: worker, prefix of the wake channels, queue, sequence, then the queue's settings: lease, retries, backoff,
-- longest backoff, lapses allowed, dead letters kept, for how long; then what the script itself asks for.
-- All times are ms. 0 lapses, dead letters or time: no bound.
--
-- An id is ten digits of base 36 (Redis's clock in µs, later than any before), some more that count within one call,
-- and the first letter of its priority. So ids sort in push order, and say when a job was pushed and where it belongs.

local call, pcall, unpack, sub, find, insert = redis.call, redis.pcall, unpack, string.sub, string.find, table.insert
local pack, unpacked, floor, min = cmsgpack.pack, cmsgpack.unpack, math.floor, math.min
local ARGV = ARGV
local jobs, meta, urgent, high, normal, low, delayed, leases, dead, expiry, stats, waiting, lane = unpack(KEYS)
local worker, sequence = ARGV[1], ARGV[4]
local lists = {u = urgent, h = high, n = normal, l = low}

local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = floor(now_us / 1000)

-- The bounds of one call's upkeep: what remains is told by `more`, and the lane calls again. Each is about 0.5 ms.
local LAPSED, EXPIRED, DUE, BURIED = 128, 128, 400, 200
local BITE = 1000 -- arguments to one command; Lua's stack holds some thousands
local more = false

-- Nothing here but normal jobs without a past, and nobody waits: the common case, which then skips looking.
local plain = call('EXISTS', meta, urgent, high, low, delayed, dead, waiting) == 0

local known = call('HMGET', stats, 'stamp', 'due', 'u', 'h', 'n', 'l')
local tombstones = {u = tonumber(known[3]), h = tonumber(known[4]), n = tonumber(known[5]), l = tonumber(known[6])}

-- Counters and tombstones that this call changed, by how much.
local changes = {}
local function count(field, by)
  changes[field] = (changes[field] or 0) + by
end

-- Runs a variadic command over part of a list, in bites. The sum of what it answered.
local function variadic(command, key, list, first, last)
  local sum = 0
  for i = first, last, BITE do
    sum = sum + call(command, key, unpack(list, i, min(i + BITE - 1, last)))
  end
  return sum
end

local function recall(id)
  local record = not plain and call('HGET', meta, id)
  return record and unpacked(record) or {}
end

local function remember(id, record)
  plain = false
  call('HSET', meta, id, pack(record))
end

local function forget(id)
  call('HDEL', jobs, id)
  call('HDEL', meta, id)
end

-- The delivery that is the job's current one, or will be its next.
local function delivery(record)
  return 1 + (record.n or 0) + (record.s or 0)
end

local function lease_name(id, record)
  local n = delivery(record)
  return n == 1 and id or id .. '.' .. n
end

local function lapsed_at(record, at)
  return record.x and record.x <= at
end

local function expire(id)
  forget(id)
  count('expired', 1)
end

local function bury(id, record, at)
  remember(id, record)
  call('ZADD', dead, at, id)
end

-- To the front of its priority, or away if its TTL is over. `fronts` gathers, `to_the_front` moves them.
local function line_up(fronts, id, record)
  if lapsed_at(record, now) then
    return expire(id)
  end
  local letter = sub(id, -1)
  fronts[letter] = fronts[letter] or {}
  insert(fronts[letter], id)
  if record.x then
    call('ZADD', expiry, record.x, id)
  end
end

local function to_the_front(fronts)
  plain = false
  for letter, ids in pairs(fronts) do
    table.sort(ids, function(a, b) return a > b end)
    variadic('LPUSH', lists[letter], ids, 1, #ids)
  end
end

-- Bringing back what is due, in this order:
--   1. Leases that ended: ready at the front, or dead, or expired, judged as of the moment the lease ended.
--   2. Jobs past their TTL go. One that stands in a ready list leaves a tombstone there: taking it out would cost the
--      length of the list.
--   3. Delayed jobs go to the back of their priority, in the order in which they fell due.
--   4. Dead letters beyond the number or the age that is kept go.

local function end_leases(retries, lapses_allowed)
  local ended = call('ZRANGEBYSCORE', leases, '-inf', now, 'WITHSCORES', 'LIMIT', 0, LAPSED)
  if #ended == 0 then
    return
  end
  more = more or #ended == 2 * LAPSED
  plain = false
  local fronts = {}
  for i = 1, #ended, 2 do
    local name, at = ended[i], tonumber(ended[i + 1])
    local dot = find(name, '.', 1, true)
    local id = dot and sub(name, 1, dot - 1) or name
    local record = recall(id)
    local used_up = delivery(record) >= (record.r or retries)
    call('ZREM', leases, name)
    record.s = (record.s or 0) + 1
    if lapsed_at(record, at) then
      expire(id)
    elseif used_up or (lapses_allowed > 0 and record.s >= lapses_allowed) then
      bury(id, record, at)
    else
      remember(id, record)
      line_up(fronts, id, record)
    end
  end
  to_the_front(fronts)
end

local function drop_expired()
  local ids = call('ZRANGEBYSCORE', expiry, '-inf', now, 'LIMIT', 0, EXPIRED)
  more = more or #ids == EXPIRED
  for _, id in ipairs(ids) do
    call('ZREM', expiry, id)
    if call('ZREM', delayed, id) == 0 then
      count(sub(id, -1), 1)
    end
    expire(id)
  end
end

local function end_delays()
  local ids = call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, DUE)
  if #ids == 0 then
    return
  end
  more = more or #ids == DUE
  local due = {}
  for _, id in ipairs(ids) do
    local letter = sub(id, -1)
    due[letter] = due[letter] or {}
    insert(due[letter], id)
  end
  variadic('ZREM', delayed, ids, 1, #ids)
  for letter, list in pairs(due) do
    variadic('RPUSH', lists[letter], list, 1, #list)
  end
end

local function trim_dead(kept, age)
  local surplus = kept > 0 and call('ZCARD', dead) - kept or 0
  local ids = {}
  if surplus > 0 then
    ids = call('ZRANGE', dead, 0, min(surplus, BURIED) - 1)
  elseif age > 0 then
    ids = call('ZRANGEBYSCORE', dead, '-inf', now - age, 'LIMIT', 0, BURIED)
  end
  more = more or #ids == BURIED
  if #ids > 0 then
    variadic('ZREM', dead, ids, 1, #ids)
    variadic('HDEL', jobs, ids, 1, #ids)
    variadic('HDEL', meta, ids, 1, #ids)
  end
end

local function bring_back()
  end_leases(tonumber(ARGV[6]), tonumber(ARGV[9]))
  if not plain then
    drop_expired()
    end_delays()
    trim_dead(tonumber(ARGV[10]), tonumber(ARGV[11]))
  end
end

-- How the queue stands, with which every reply begins: now, when something falls due next, ready jobs, whether
-- upkeep is left.
local function ready_in(letter)
  return call('LLEN', lists[letter]) - (tombstones[letter] or 0) - (changes[letter] or 0)
end

local function standing()
  local soonest = call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2]
  local ready = ready_in('n')
  if not plain then
    local due = call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
    if due and (not soonest or tonumber(due) < tonumber(soonest)) then
      soonest = due
    end
    ready = ready + ready_in('u') + ready_in('h') + ready_in('l')
  end
  return now, soonest and tonumber(soonest) or false, ready, more and 1 or 0
end

-- Writes the counters. A list that holds nothing but tombstones goes.
local function settle()
  for letter, key in pairs(lists) do
    local buried = (tombstones[letter] or 0) + (changes[letter] or 0)
    if buried > 0 and call('LLEN', key) == buried then
      call('UNLINK', key)
      count(letter, -buried)
    end
  end
  for field, by in pairs(changes) do
    if by ~= 0 then
      call('HINCRBY', stats, field, by)
    end
  end
end

-- Applied once. A lane numbers its calls from 1 and has one in flight; one that it has to doubt it repeats.
--   1. `before` is what this very call came to when it was applied, if it was. A look-up has no number.
--   2. `applied` keeps the outcome, in the same step as all that the call did, so that they are lost or kept together.
local KEPT = 600000 -- ms; a lane gives a call up long before

local before = sequence ~= '0' and call('GET', lane)
if before then
  local at = find(before, '\n', 1, true)
  local last = tonumber(sub(before, 1, at - 1))
  if last > tonumber(sequence) then
    return redis.error_reply('STALE call ' .. sequence .. ' of a lane that is at ' .. last)
  end
  before = last == tonumber(sequence) and sub(before, at + 1)
end

local function applied(outcome)
  call('SET', lane, sequence .. '\n' .. outcome, 'PX', KEPT)
end
