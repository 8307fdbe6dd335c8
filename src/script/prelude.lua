-- What every script of a queue begins with: its keys, its clock, and whether this very call was applied before.
-- The loader puts this file in front of each of the others, so that it is one chunk with them. It makes few functions:
-- each costs every call a little, whether it is used or not. What is seldom needed is in upkeep.lua.
--
-- KEYS, all of one partition and so of one hash tag, T = <prefix>:{<queue>/<partition>}, or {<queue>/<partition>.<salt>}:
--   T:jobs    hash  id → payload, byte for byte, or packed by the proxy. A job exists as long as it stands here, and no longer.
--   T:meta    hash  id → what is to be remembered of a job that has a past or options, as a MessagePack map
--                   (n nacks, s lapses, t ready since or from, x expires at, r retries, b backoff, m longest backoff,
--                   l lease, e error, u unique key, v the loan by which that is here, w ready again since, after a lapse, h its META: field, value, field …,
--                   g group). A plain waiting job has none.
--   T:ready:urgent, :high, :normal, :low   lists of ids, the head is served first
--   T:delayed zset  id, due ms
--   T:leases  zset  lease name, end ms. The name is the id on its first delivery, id.n on its n-th: a receipt of an
--                   earlier delivery names no member, and so can do nothing to the job.
--   T:dead    zset  id, ms of its death
--   T:expiry  zset  id, ms: the ready and delayed jobs that have a TTL
--   T:stats   hash  stamp: the last one given out; due: what the waiting workers were told; cfg: the version of
--                   T:settings; returned: the highest loan given back; tokens, filled: what the rate's bucket held, and when; counters; and for each priority
--                   the number of tombstones, entries in its list whose job was deleted, has expired or lost its group's turn; turns:
--                   how many there were
--   T:waiting zset  worker, ms since when it waits for a job
--   T:settings hash what QCONFIG SET changed of the queue's settings, whether it is paused, over which partitions the queue
--                   spreads, and whether all that is being removed. Partition 0's are what holds; the others' are copies.
--   T:unique  hash  unique key → id of the job that holds it
--   T:holds   zset  unique key, ms until which FOR holds it
--   T:lent    hash  unique key that belongs here and was lent → the partition that has it, a space and the loan's number;
--                   T:recalls zset: the same keys, ms when the next look is due whether they can come back. See ending.lua
--   T:awaited zset  id, a space and a worker: a client of its waits for the job's end
--   T:groups  zset  the unfinished jobs of groups, and T:behind zset id, priority: those that wait behind their group, see
--                   groups.lua
--   T:buckets zset  group, ms at which the bucket of its rate is full again; T:throttled zset group, ms at which the rate
--                   allows the job that it holds back
--   T:sift    list  what is left of a ready list that QCHECK takes apart, and T:sifted hash entry, nothing: see check.lua
--   T:results hash  id → what QACK said came of it; T:result_ends zset  id, ms until which it is kept
--   T:cron    hash  w and the name of a repeated job → the words of its QCRON ADD, l and the name → ms of its last tick, p and the
--                   name → the partition that the next one goes to, if not here; T:ticks zset name, ms of its next tick. So in
--                   partition 0. In the others T:cron has l alone: the last tick that was pushed there, and T:ticks since when it
--                   is remembered. Only the calls that have to do with repeated jobs are given these two.
--   T:lane:<worker> string  the last sequence applied and its outcome, for a while
-- A job's state follows from where its id stands, and is written nowhere else: in leases, delayed or dead, otherwise
-- in its ready list or behind its group.
--
-- ARGV: who calls (worker, prefix of the wake channels, queue/partition: words with a space between), sequence (and behind a
-- space that of an earlier call, see below), the queue's
-- settings (words likewise: their version, empty if nothing was changed, then lease, retries, backoff, longest backoff,
-- lapses allowed, dead letters kept, for how long, jobs of a group leased at once, and its rate: so many, 0 for no bound, in
-- so many ms); from the fourth on what the script itself asks for.
-- All times are ms. 0 lapses, dead letters or time: no bound.
--
-- An id is ten digits of base 36 (Redis's clock in µs, later than any before), some more that count within one call,
-- a Z if its payload is packed, and the first letter of its priority. So ids sort in push order, and say when a job was pushed and where it belongs.

local call, unpack, sub, find, floor, min = redis.call, unpack, string.sub, string.find, math.floor, math.min
local ARGV = ARGV
local jobs, meta, urgent, high, normal, low, delayed, leases, dead, expiry, stats, waiting, overrides, unique, holds, awaited, results, result_ends, groups, behind, buckets, throttled, sift, sifted, lent, recalls, lane, cron, ticks =
  unpack(KEYS)
local sequence, after = ARGV[2]:match('^(%d+) ?(%d*)$')
local lists = {u = urgent, h = high, n = normal, l = low}

local BITE = 1000 -- arguments to one command; Lua's stack holds some thousands
local KEPT = 600000 -- ms for which a lane's last outcome is kept; a lane gives a call up long before

local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = floor(now_us / 1000)

local known = call('HMGET', stats, 'u', 'h', 'n', 'l', 'stamp', 'due', 'pushed', 'cfg')
local tombstones = {u = tonumber(known[1]), h = tonumber(known[2]), n = tonumber(known[3]), l = tonumber(known[4])}
local changes = {} -- of counters and tombstones, by how much

-- Nothing here but normal jobs without a past, and nobody waits: the common case, which then skips looking.
local plain = call('EXISTS', meta, urgent, high, low, delayed, dead, waiting, holds, awaited, result_ends, buckets, sift, recalls) == 0
local nobody_waits = plain or call('EXISTS', waiting) == 0
local more, leases_left = false, false -- upkeep is left, and of leases that have ended

-- Applied once. A lane numbers its calls from 1 and has one in flight; one that it has to doubt it repeats.
--   1. `before` is what this very call came to when it was applied, if it was. A look-up has no number.
--   2. The script keeps its outcome under `lane`, in the same step as all that it did, so that they are lost or kept
--      together. A call that could do nothing keeps nothing.
--   3. `after` is the number of an earlier call of the lane of which it knows that it was applied, and has kept what it
--      pushed. If it was not, then jobs that were acknowledged are lost: the call does nothing, and says what was applied last.
local before = sequence ~= '0' and call('GET', lane)
local last = 0
if before then
  local at = find(before, '\n', 1, true)
  last = tonumber(sub(before, 1, at - 1))
  if last > tonumber(sequence) then
    return redis.error_reply('STALE call ' .. sequence .. ' of a lane that is at ' .. last)
  end
  before = last == tonumber(sequence) and sub(before, at + 1)
end

if after ~= '' and last < tonumber(after) then
  return {'LOST', last}
end

-- A call with settings of another version does nothing: it brings back what they are now, and is made again. One whose
-- version is * does not go by them.
local version = known[8] or ''
if not before and sub(ARGV[3], 1, #version + 1) ~= version .. ' ' and sub(ARGV[3], 1, 2) ~= '* ' then
  return {'SETTINGS', version, call('HGETALL', overrides)}
end

local function ready_in(letter)
  return call('LLEN', lists[letter]) - (tombstones[letter] or 0) - (changes[letter] or 0)
end

-- How the queue stands, with which every reply begins: now, when something falls due next, ready jobs, and in one number
-- whether upkeep is left (1), of which priority the first ready job is: normal or none (0), urgent (2), high (4), low (6),
-- whether jobs are ready while workers wait (8), one of whom is called then, whether keys that were lent are to be looked
-- after (16), whether there are jobs of groups or with keys, which cost more (32), and whether plain.lua can serve it (64).
local function standing()
  local soonest = tonumber(call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2])
  local ready = ready_in('n')
  local is_whole = (tombstones.n or 0) + (changes.n or 0) == 0
  local left = (more and 1 or 0) + (plain and is_whole and 64 or 0)
  if not plain then
    local due = tonumber(call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2])
    local allowed = tonumber(call('ZRANGE', throttled, 0, 0, 'WITHSCORES')[2])
    soonest = due and min(due, soonest or due) or soonest
    soonest = allowed and min(allowed, soonest or allowed) or soonest
    local u, h, l = ready_in('u'), ready_in('h'), ready_in('l')
    local recall = tonumber(call('ZRANGE', recalls, 0, 0, 'WITHSCORES')[2])
    left = left + (u > 0 and 2 or h > 0 and 4 or ready == 0 and l > 0 and 6 or 0) + (recall and recall <= now and 16 or 0)
    left = left + (call('EXISTS', unique, groups) > 0 and 32 or 0)
    ready = ready + u + h + l
  end
  left = left + (ready > 0 and not nobody_waits and 8 or 0)
  return now, soonest or false, math.max(ready, 0), left
end

-- Writes the counters. A list that holds nothing but tombstones goes.
local function settle()
  for letter, key in pairs(lists) do
    local buried = (tombstones[letter] or 0) + (changes[letter] or 0)
    if buried > 0 and call('LLEN', key) == buried then
      call('UNLINK', key)
      changes[letter] = (changes[letter] or 0) - buried
    end
  end
  for field, by in pairs(changes) do
    if by ~= 0 then
      call('HINCRBY', stats, field, by)
    end
  end
end
