-- What a lane gathered, in one step: what workers say of their jobs, then the upkeep, then pushes, then pops.
-- Workers come first, so that a receipt is good until somebody brought its job back; pushes come after the upkeep,
-- because what was due before them goes before them.
--
-- ARGV after the prelude's: jitter (0 to 1); how many jobs are pushed; how many the pops before the last one that would
-- wait ask for: if no more than these are popped, the worker waits (empty: nobody of its would wait); how many the pops
-- ask for in all; then words, each with what belongs to it:
--   a names              QACK of first deliveries:  a n name×n
--   A names ids          QACK of any:               A n name×n id×n
--   k                    QNACK:                     k n delay dead error name×n      delay, error: empty if not given
--   x                    QEXTEND:                   x n lease name×n
--   b                    back from a lost client:   b name taken payload meta        taken: 1 if NOACK had removed it
--   p                    pushes of one kind:        p n letter start ttl options (suffix payload)×n
--                        start: empty, +ms or =unix ms; options: a MessagePack map, or empty
--   o                    pops of one kind:          o n lease noack                  lease: empty if not given
-- in the order a–b as they came, then p, then o. A name is that of a lease, or an id and '?' for whatever delivery
-- is current.
--
-- Returns now, next due or false, ready, more, what the pushes came to (the stamp their ids begin with, or OOM: refused), the places of the names that did not count (1 is the first name of the call), then
-- for the jobs popped: ids, payloads, and their meta records if there are any.

local jitter, pushing, waits_from, wanted = tonumber(ARGV[12]), ARGV[13] ~= '0', tonumber(ARGV[14]), tonumber(ARGV[15])
local at, last = 16, #ARGV

-- A repeat: the same answer. A job that is no longer leased by this very delivery is left out.
if before then
  local pushed, missed, names = before:match('^([^\n]*)\n([^\n]*)\n(.*)$')
  local places, ids, payloads, records = {}, {}, {}, {}
  for place in missed:gmatch('%d+') do
    insert(places, tonumber(place))
  end
  for name in names:gmatch('%S+') do
    if call('ZSCORE', leases, name) then
      local id = name:match('^%w+')
      insert(ids, id)
      insert(payloads, call('HGET', jobs, id))
      insert(records, call('HGET', meta, id))
    end
  end
  local t, due, ready, left = standing()
  return {t, due, ready, left, pushed, places, ids, payloads, records}
end

-- The first write comes before anything was done, so that a Redis that refuses writes refuses the whole call. One that
-- is out of memory refuses only what takes memory, and only as a script's first write: the pushes are turned away,
-- and the rest, which makes room, goes on.
local pushed = ''
if pushing then
  local stamp = math.max(now_us, tonumber(known[1] or 0) + 1)
  local written = pcall('HSET', stats, 'stamp', string.format('%.0f', stamp))
  if type(written) == 'number' then
    local digits = {}
    for i = 10, 1, -1 do
      local digit = stamp % 36
      digits[i] = digit < 10 and 48 + digit or 87 + digit
      stamp = (stamp - digit) / 36
    end
    pushed = string.char(unpack(digits))
  elseif find(written.err, 'OOM', 1, true) then
    pushed, pushing = 'OOM', false
  else
    return written
  end
end
if pushed == '' or not pushing then
  call('HDEL', stats, '')
end

-- What workers say of their jobs. `place` counts the names of the call.
local place, places = 0, {}
local returned = {}

-- The id and the lease that a name stands for.
local function named(name)
  local id = name:match('^%w+')
  if sub(name, -1) == '?' then
    name = lease_name(id, recall(id))
  end
  return id, name
end

-- One at a time: exact whatever the names are.
local function ack_each(first, n)
  local acked = 0
  for i = first, first + n - 1 do
    local id, name = named(ARGV[i])
    place = place + 1
    if call('ZREM', leases, name) == 1 then
      acked = acked + 1
      call('HDEL', jobs, id)
      if not plain then
        call('HDEL', meta, id)
      end
    else
      insert(places, place)
    end
  end
  return acked
end

-- All at once, if each of the names is that of a lease: first look, then take. A name given twice shows when fewer are
-- removed than were seen, and then its later places did not count.
local function ack_all(first, ids, n)
  local names_end = first + n - 1
  local ends = call('ZMSCORE', leases, unpack(ARGV, first, names_end))
  for i = 1, n do
    if not ends[i] then
      return ack_each(first, n)
    end
  end
  local acked = call('ZREM', leases, unpack(ARGV, first, names_end))
  call('HDEL', jobs, unpack(ARGV, ids, ids + n - 1))
  if not plain then
    call('HDEL', meta, unpack(ARGV, ids, ids + n - 1))
  end
  if acked < n then
    local seen = {}
    for i = 0, n - 1 do
      if seen[ARGV[first + i]] then
        insert(places, place + 1 + i)
      end
      seen[ARGV[first + i]] = true
    end
  end
  place = place + n
  return acked
end

local function ack(first, ids, n)
  local acked = 0
  for i = 0, n - 1, BITE do
    local bite = min(BITE, n - i)
    if bite == 1 then
      acked = acked + ack_each(first + i, 1)
    else
      acked = acked + ack_all(first + i, ids + i, bite)
    end
  end
  count('acked', acked)
end

-- base × 2^(attempt − 1), at most the longest, ± 20 %. The jitter of a call's jobs is spread by the golden ratio, so
-- that jobs which failed together do not come back together.
local function backoff(record)
  local wait = min((record.b or tonumber(ARGV[7])) * 2 ^ (delivery(record) - 1), record.m or tonumber(ARGV[8]))
  return floor(wait * (0.8 + 0.4 * ((jitter + place * 0.618034) % 1)))
end

local function nack(name, delay, dead_now, text)
  local id, lease = named(name)
  place = place + 1
  if call('ZREM', leases, lease) == 0 then
    return insert(places, place)
  end
  local record = recall(id)
  local used_up = delivery(record) >= (record.r or tonumber(ARGV[6]))
  local wait = tonumber(delay) or backoff(record)
  count('nacked', 1)
  if lapsed_at(record, now) then
    return expire(id)
  end
  record.n = (record.n or 0) + 1
  record.e = text ~= '' and text or record.e
  if dead_now or used_up then
    return bury(id, record, now)
  end
  record.t = now + wait -- the upkeep, which comes next, brings it back at once if that is now
  remember(id, record)
  call('ZADD', delayed, record.t, id)
  if record.x then
    call('ZADD', expiry, record.x, id)
  end
end

local function extend(name, lease)
  local _, held = named(name)
  place = place + 1
  if call('ZSCORE', leases, held) then
    call('ZADD', leases, now + lease, held)
  else
    insert(places, place)
  end
end

-- As if it had never been popped.
local function give_back(name, taken, payload, packed)
  local id = name:match('^%w+')
  if taken == '1' then
    if call('HSETNX', jobs, id, payload) == 0 then
      return
    end
    if packed ~= '' then
      plain = false
      call('HSET', meta, id, packed)
    end
    count('acked', -1)
  elseif call('ZREM', leases, name) == 0 then
    return
  end
  line_up(returned, id, recall(id))
end

while at <= last do
  local word, n = ARGV[at], tonumber(ARGV[at + 1])
  if word == 'a' then
    ack(at + 2, at + 2, n)
    at = at + 2 + n
  elseif word == 'A' then
    ack(at + 2, at + 2 + n, n)
    at = at + 2 + 2 * n
  elseif word == 'k' then
    for i = at + 5, at + 4 + n do
      nack(ARGV[i], ARGV[at + 2], ARGV[at + 3] == '1', ARGV[at + 4])
    end
    at = at + 5 + n
  elseif word == 'x' then
    for i = at + 3, at + 2 + n do
      extend(ARGV[i], tonumber(ARGV[at + 2]))
    end
    at = at + 3 + n
  elseif word == 'b' then
    give_back(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
    at = at + 5
  else
    break
  end
end
if next(returned) then
  to_the_front(returned)
end

bring_back()

-- Pushes of one kind: the same priority and options, so the same record of them.
local function push(first, n, letter, start, ttl, options)
  local prefix, ids, pairs_end = pushed, {}, first + 2 * n - 1
  for i = first, pairs_end, 2 do
    local id = prefix .. ARGV[i]
    ARGV[i] = id
    ids[#ids + 1] = id
  end
  for i = first, pairs_end, 2 * BITE do
    call('HSET', jobs, unpack(ARGV, i, min(i + 2 * BITE - 1, pairs_end)))
  end
  count('pushed', n)

  local ms = tonumber((sub(start, 2))) or 0
  local due = sub(start, 1, 1) == '=' and ms or now + ms
  local record = options ~= '' and unpacked(options) or {}
  record.x = ttl ~= '' and now + tonumber(ttl) or nil
  record.t = due > now and due or nil
  if next(record) then
    local packed = pack(record)
    plain = false
    for _, id in ipairs(ids) do
      call('HSET', meta, id, packed)
      if record.t then
        call('ZADD', delayed, due, id)
      end
      if record.x then
        call('ZADD', expiry, record.x, id)
      end
    end
  end
  if not record.t then
    plain = plain and letter == 'n'
    variadic('RPUSH', lists[letter], ids, 1, n)
  end
end

while ARGV[at] == 'p' do
  local n = tonumber(ARGV[at + 1])
  if pushing then
    push(at + 6, n, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5])
  end
  at = at + 6 + 2 * n
end

-- Taking jobs from the heads of the lists, strictly by priority. Tombstones are passed over, a bounded number.
local ids, payloads, records = {}, {}, false
local TOMBSTONES = 500
local passed = 0

local function take(letter, want)
  local key = lists[letter]
  while want > 0 and passed < TOMBSTONES do
    local taken = call('LPOP', key, min(want, BITE))
    if not taken then
      return
    end
    local bodies = call('HMGET', jobs, unpack(taken))
    for i = 1, #taken do
      if bodies[i] then
        ids[#ids + 1] = taken[i]
        payloads[#payloads + 1] = bodies[i]
        want = want - 1
      else
        count(letter, -1)
        passed = passed + 1
      end
    end
  end
end

if wanted > 0 then
  if not plain then
    take('u', wanted)
    take('h', wanted - #ids)
  end
  take('n', wanted - #ids)
  if not plain then
    take('l', wanted - #ids)
  end
  more = more or passed >= TOMBSTONES
end

-- Leases for what was taken, in the order in which the pops asked. `names` goes into the lane's record, to repeat the
-- answer; of a NOACK job nothing is left that could be repeated.
local names = {}
local got = #ids

if got > 0 and not plain then
  records = {}
  for i = 1, got, BITE do
    for _, packed in ipairs(call('HMGET', meta, unpack(ids, i, min(i + BITE - 1, got)))) do
      records[#records + 1] = packed
    end
  end
  variadic('ZREM', expiry, ids, 1, got)
end

local function lease_all(first, end_, asked)
  local until_then = tostring(now + tonumber(asked ~= '' and asked or ARGV[5]))
  local entries = {}
  for i = first, end_ do
    local name, held_until = ids[i], until_then
    if records and records[i] then
      local record = unpacked(records[i])
      name = lease_name(name, record)
      if asked == '' and record.l then
        held_until = now + record.l
      end
    end
    names[#names + 1] = name
    entries[#entries + 1] = held_until
    entries[#entries + 1] = name
  end
  for i = 1, #entries, 2 * BITE do
    call('ZADD', leases, unpack(entries, i, min(i + 2 * BITE - 1, #entries)))
  end
end

local served = 0
while at <= last and served < got do
  local first, end_ = served + 1, min(got, served + tonumber(ARGV[at + 1]))
  if ARGV[at + 3] == '1' then
    variadic('HDEL', jobs, ids, first, end_)
    variadic('HDEL', meta, ids, first, end_)
    count('acked', end_ - served)
  else
    lease_all(first, end_, ARGV[at + 2])
  end
  served = end_
  at = at + 4
end

settle()
applied(pushed .. '\n' .. table.concat(places, ' ') .. '\n' .. table.concat(names, ' '))
local t, due, ready, left = standing()

-- Waiting and waking. A worker stands in T:waiting exactly while it has clients that wait and nothing is ready; it comes
-- there in the very call that found nothing, so that no push can slip between.
--   1. Jobs are left: the worker that has waited longest is called, and leaves the list. If nobody heard, the next one.
--   2. A due time is sooner than what the waiting were told: all are told, by the same channel, and stay.
--   3. This worker joins, and learns the due time from this reply.
-- Messages: the queue's name, "come"; the name, a space and ms, "something is due then".
local CALLS = 16
local channel, queue = ARGV[2], ARGV[3]
local waits = waits_from and got <= waits_from and ready == 0 and not more

local function wake_one()
  for _ = 1, CALLS do
    local longest = call('ZPOPMIN', waiting)[1]
    if not longest or call('PUBLISH', channel .. longest, queue) > 0 then
      return
    end
  end
end

local function tell_all()
  for _, other in ipairs(call('ZRANGE', waiting, 0, -1)) do
    if other ~= worker and call('PUBLISH', channel .. other, queue .. ' ' .. due) == 0 then
      call('ZREM', waiting, other)
    end
  end
end

if not plain and not waits then
  call('ZREM', waiting, worker)
end
if not plain and call('EXISTS', waiting) == 1 then
  if ready > 0 or more then
    wake_one()
  end
  if due and due < tonumber(known[2] or math.huge) then
    tell_all()
    call('HSET', stats, 'due', due)
    known[2] = due
  end
end
if waits then
  call('ZADD', waiting, 'NX', now, worker)
  if due then
    call('HSET', stats, 'due', due)
  elseif known[2] then
    call('HDEL', stats, 'due')
  end
end

return {t, due, ready, left, pushed, places, ids, payloads, records}
