-- Bringing back what is due, and what can befall a job besides being pushed, popped and acknowledged.
-- Not a script: the loader puts it where the scripts say so, in batch.lua into the branch that is seldom taken.

local insert, pack, unpacked = table.insert, cmsgpack.pack, cmsgpack.unpack

local settings = {}
for number in sub(ARGV[3], #version + 2):gmatch('%d+') do
  insert(settings, tonumber(number))
end
local _, retries, base_backoff, max_backoff, lapses_allowed, dead_kept, dead_age = unpack(settings)

--@include ending

-- The bounds of one call's upkeep: what remains is told by `more`, and the lane calls again. Each is about 0.5 to 1 ms
-- (benches/scripts.md); where there are groups a job costs several times as much, with unique keys twice.
local dearness = call('EXISTS', groups) == 1 and 8 or somebody_cares and 2 or 1
local LAPSED = dearness > 1 and 40 or 128
local EXPIRED, DUE, BURIED, HELD, RESULTS, ALLOWED, SIFTED = LAPSED, 400 / dearness, 200, 128, 200, 32, 200

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

local function forget(id, record)
  ended(id, record)
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

local function expire(id, record)
  forget(id, record)
  count('expired', 1)
end

local function bury(id, record, at)
  ended(id, record)
  remember(id, record)
  call('ZADD', dead, at, id)
end

-- To the front of its priority, or away if its TTL is over. `fronts` gathers, `to_the_front` moves them.
local function line_up(fronts, id, record)
  if lapsed_at(record, now) then
    return expire(id, record)
  end
  if record.x then
    call('ZADD', expiry, record.x, id)
  end
  if record.g then
    return enter(id, record, fronts)
  end
  local letter = sub(id, -1)
  fronts[letter] = fronts[letter] or {}
  insert(fronts[letter], id)
end

local function sort_newest_first(ids)
  local stamps, numbers = {}, {}
  for _, id in ipairs(ids) do
    stamps[id], numbers[id] = stamp_of(id), number_of(id)
  end
  table.sort(ids, function(a, b)
    return stamps[a] > stamps[b] or stamps[a] == stamps[b] and numbers[a] > numbers[b]
  end)
end

local function to_the_front(fronts)
  plain = false
  for letter, ids in pairs(fronts) do
    sort_newest_first(ids)
    variadic('LPUSH', lists[letter], ids, 1, #ids)
    for _, id in ipairs(call('EXISTS', sifted) == 1 and ids or {}) do
      call('HSET', sifted, id, '')
    end
  end
end

-- How a record that has a group shows, before it is unpacked.
local GROUP = '\161g'

-- Bringing back what is due, in this order:
--   1. Leases that ended: ready at the front, or dead, or expired, judged as of the moment the lease ended.
--   2. Jobs past their TTL go. One that stands in a ready list leaves a tombstone there: taking it out would cost the
--      length of the list.
--   3. Delayed jobs go to the back of their priority, in the order in which they fell due, or to their place in their group.
--   4. Groups whose rate allows the next job have their turn.
--   5. Dead letters beyond the number or the age that is kept go.
--   6. Unique keys that FOR has held go, if their jobs have; so do results that were kept for long enough.
--   7. A list that QCHECK takes apart comes back, but for what stands there for no job or for the second time (check.lua).

local function id_of(name)
  local dot = find(name, '.', 1, true)
  return dot and sub(name, 1, dot - 1) or name
end

-- A delivery was lost with its worker, at that moment. The record that is to be remembered goes into `notes`: id, record, id, record …
local function lapse(id, record, at, fronts, notes)
  local used_up = delivery(record) >= (record.r or retries)
  record.s = (record.s or 0) + 1
  if lapsed_at(record, at) then
    expire(id, record)
  elseif used_up or (lapses_allowed > 0 and record.s >= lapses_allowed) then
    bury(id, record, at)
  elseif lapsed_at(record, now) then
    expire(id, record)
  else
    record.w = at
    insert(notes, id)
    insert(notes, pack(record))
    line_up(fronts, id, record)
  end
end

local function write(notes)
  plain = plain and #notes == 0
  variadic('HSET', meta, notes, 1, #notes)
end

-- Those that ended last come first, so that those that ended before are put before them, by this call or the next. Nothing is popped
-- until all are back.
local function end_leases()
  local ended = call('ZRANGE', leases, now, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, LAPSED, 'WITHSCORES')
  if #ended == 0 then
    return
  end
  local names, ids, fronts, notes = {}, {}, {}, {}
  for i = 1, #ended, 2 do
    insert(names, ended[i])
    insert(ids, id_of(ended[i]))
  end
  local records = plain and {} or call('HMGET', meta, unpack(ids))
  variadic('ZREM', leases, names, 1, #names)
  for i = #ids, 1, -1 do -- as they ended: where one dies the next of its group has its turn, at the back
    lapse(ids[i], records[i] and unpacked(records[i]) or {}, tonumber(ended[2 * i]), fronts, notes)
  end
  write(notes)
  to_the_front(fronts)
  leases_left = #names == LAPSED
  more = more or leases_left
end

local function drop_expired()
  local ids = call('ZRANGEBYSCORE', expiry, '-inf', now, 'LIMIT', 0, EXPIRED)
  more = more or #ids == EXPIRED
  for _, id in ipairs(ids) do
    call('ZREM', expiry, id)
    if call('ZREM', delayed, id) + call('ZREM', behind, id) == 0 then
      count(sub(id, -1), 1)
    end
    expire(id, recall(id))
  end
end

local function end_delays()
  local ids = call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, DUE)
  if #ids == 0 then
    return
  end
  more = more or #ids == DUE
  local due = {}
  local records = call('HMGET', meta, unpack(ids))
  for i, id in ipairs(ids) do
    local letter = sub(id, -1)
    local record = find(records[i] or '', GROUP, 1, true) and unpacked(records[i]) or {}
    if record.g then
      enter(id, record, due)
    else
      due[letter] = due[letter] or {}
      insert(due[letter], id)
    end
  end
  variadic('ZREM', delayed, ids, 1, #ids)
  for letter, list in pairs(due) do
    variadic('RPUSH', lists[letter], list, 1, #list)
  end
end

-- Also those that a slower rate, which was changed since, would hold for longer than this one ever does.
local function end_throttling()
  if call('EXISTS', buckets, throttled) == 0 then
    return
  end
  local never = '(' .. now + math.ceil(spacing or 0)
  local tags = call('ZRANGEBYSCORE', throttled, '-inf', now, 'LIMIT', 0, ALLOWED)
  for _, tag in ipairs(call('ZRANGEBYSCORE', throttled, never, '+inf', 'LIMIT', 0, ALLOWED - #tags)) do
    insert(tags, tag)
  end
  more = more or #tags == ALLOWED
  for _, tag in ipairs(tags) do
    call('ZREM', throttled, tag)
    arrange(tag)
  end
  local full = call('ZRANGEBYSCORE', buckets, '-inf', now, 'LIMIT', 0, ALLOWED)
  more = more or #full == ALLOWED
  variadic('ZREM', buckets, full, 1, #full)
end

local function remove_dead(ids)
  more = more or #ids == BURIED
  if #ids > 0 then
    call('ZREM', dead, unpack(ids))
    call('HDEL', jobs, unpack(ids))
    call('HDEL', meta, unpack(ids))
  end
end

local function trim_dead()
  local surplus = dead_kept > 0 and call('ZCARD', dead) - dead_kept or 0
  if surplus > 0 then
    remove_dead(call('ZRANGE', dead, 0, min(surplus, BURIED) - 1))
  end
  if dead_age > 0 then
    remove_dead(call('ZRANGEBYSCORE', dead, '-inf', now - dead_age, 'LIMIT', 0, BURIED))
  end
end

local function end_holds()
  local keys = call('ZRANGEBYSCORE', holds, '-inf', now, 'LIMIT', 0, HELD)
  more = more or #keys == HELD
  for _, key in ipairs(keys) do
    call('ZREM', holds, key)
    if has_ended(call('HGET', unique, key) or '') then
      call('HDEL', unique, key)
    end
  end
end

local function trim_results()
  local ids = call('ZRANGEBYSCORE', result_ends, '-inf', now, 'LIMIT', 0, RESULTS)
  more = more or #ids == RESULTS
  variadic('ZREM', result_ends, ids, 1, #ids)
  variadic('HDEL', results, ids, 1, #ids)
end

local function sift_entries()
  local entries, back = call('RPOP', sift, SIFTED) or {}, {}
  local notes = call('EXISTS', sifted) == 1
  for _, entry in ipairs(entries) do
    local id, record = in_line(entry)
    local elsewhere = id == entry
      and (call('ZSCORE', leases, lease_name(id, record)) or call('ZSCORE', delayed, id) or call('ZSCORE', dead, id))
    if id and not elsewhere and (not notes or call('HSETNX', sifted, entry, '') == 1) then
      local letter = sub(id, -1)
      back[letter] = back[letter] or {}
      insert(back[letter], entry)
    end
  end
  for letter, list in pairs(back) do
    variadic('LPUSH', lists[letter], list, 1, #list)
  end
  more = more or #entries == SIFTED
end

local function bring_back()
  end_leases()
  if not plain then
    drop_expired()
    end_delays()
    end_throttling()
    trim_dead()
    end_holds()
    trim_results()
    sift_entries()
  end
end

-- The end of a call that may have made jobs ready: counters are written, and one of those who wait is called. Returns what every
-- reply begins with, and `...`.
local function finish(...)
  settle()
  local t, due, ready, left = standing()
  if ready > 0 then
    --@include wake
    wake_one()
  end
  return {t, due, ready, left, ...}
end
