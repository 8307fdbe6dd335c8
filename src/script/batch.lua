-- What a lane gathered, in one step: what workers say of their jobs, then the upkeep, then pushes, then pops.
-- Workers come first, so that a receipt is good until somebody brought its job back; pushes come after the upkeep,
-- because what was due before them goes before them.
--
-- ARGV after the prelude's: how many jobs are pushed, and if the queue is bounded, a space and its bound; how many the pops
-- ask for, and if they are limited, a space and the limits (see limits.lua); how many the pops before the last one
-- that would wait ask for: if no more than these are popped, the worker waits; and how many the first ones ask for that all
-- would wait (empty: nobody of its would wait); then words, each with what belongs to it:
--   a n name×n                         QACK
--   r n ttl result name×n              QACK … RESULT; a key for each name behind the prelude's
--   k n delay dead error jitter name×n QNACK; delay, error: empty if not given; jitter: 0 to 1
--   x n lease name×n                   QEXTEND
--   l n name×n                         leases that end now, with their worker's connection (BOUND)
--   b name taken payload meta          back from a lost client; taken: 1 if NOACK had removed it; 2 if it is no delivery that
--                                      comes back but a job that Redis lost, which is pushed again
--   c name tick next place run key loan
--                                      a tick of QCRON, if nobody has made it yet: the run is its push, 0 if that was made elsewhere,
--                                      = if there is none, as its key is held elsewhere; next: empty if it is the last, else place
--                                      is the partition that the next one goes to; a dash where it is only pushed: the repeated
--                                      jobs are those of partition 0; its unique key and the loan by which that is here, empty if
--                                      there is none
--   p n letter start ttl options (suffix payload)×n
--                                      pushes of one kind; start: empty, +ms or =unix ms; options: a MessagePack map,
--                                      or empty
--   o n lease whose noack              pops of one kind; whose: 1 if the pop said the lease, so that it goes before the
--                                      job's own
-- the first six as they came, then c, then p, then o. A name is that of a lease, or an id and '?' for whatever delivery
-- is current.
--
-- Returns now, next due or false, ready (as far as the limits let them be popped), more, what the pushes came to (the stamp
-- their ids begin with, behind it a colon and the runs that were not stored: the number of one that the bound refused; the
-- number and = and the id of the job that holds the key, @ and why the key is not to be had here (see ending.lua), or ! where
-- another made the tick; or OOM: refused),
-- the places of the names that did not count (1 is the first name of the call), then for the jobs popped: ids, payloads,
-- and their meta records if there are any.

local pushing, wanted = tonumber(ARGV[4]), tonumber(ARGV[5])
local waits_from, patient = ARGV[6]:match('^(%d+) (%d+)$')
waits_from, patient = tonumber(waits_from), tonumber(patient)
local at, last = 7, #ARGV

-- A number alone: the queue has no limits.
local limited = not wanted
--@include limits
if limited then
  wanted = tonumber(ARGV[5]:match('^%d+'))
  read_limits(ARGV[5])
end
local bound
if not pushing then
  pushing, bound = ARGV[4]:match('^(%d+) (%d+)$')
  pushing, bound = tonumber(pushing), tonumber(bound)
end

-- A repeat: the same answer. A job that is no longer leased by this very delivery is left out.
if before then
  local pushed, missed, names = before:match('^([^\n]*)\n([^\n]*)\n(.*)$')
  local places, ids, payloads, records = {}, {}, {}, {}
  for place in missed:gmatch('%d+') do
    places[#places + 1] = tonumber(place)
  end
  for name in names:gmatch('%S+') do
    if call('ZSCORE', leases, name) then
      local id = name:match('^%w+')
      ids[#ids + 1] = id
      payloads[#ids] = call('HGET', jobs, id)
      records[#ids] = call('HGET', meta, id)
    end
  end
  local t, due, ready, left = standing()
  if limited then
    t, due, ready, left = as_limited(t, due, ready, left)
  end
  return {t, due, ready, left, pushed, places, ids, payloads, records}
end

-- A Redis that refuses writes must do so before anything was done. One that is out of memory refuses what takes memory,
-- but only as a script's first write: then the pushes are turned away, and the rest, which makes room, goes on. So the
-- pushes' first write is the very first; without pushes each part below begins with one that takes no memory.
local pushed = ''
if pushing > 0 then
  local stamp = math.max(now_us, (tonumber(known[5]) or 0) + 1)
  local written = redis.pcall('HSET', stats, 'stamp', stamp, 'pushed', (tonumber(known[7]) or 0) + pushing)
  if type(written) == 'number' then
    --@include stamp
  elseif find(written.err, 'OOM', 1, true) then
    pushed, pushing = 'OOM', 0
  else
    return written
  end
end

-- What workers say of their jobs. `place` counts the names of the call; `places` are those that did not count.
local place, places, acked = 0, {}, false

local n = tonumber(ARGV[at + 1])
if plain and ARGV[at] == 'a' and n <= BITE then
  local first = at + 2
  --@include acks
  if acked then
    place, at = n, end_ + 1
  end
end
acked = acked or 0

-- Whatever else they say, and the upkeep.
local word = ARGV[at]
local calm = plain and (not word or word == 'c' or word == 'p' or word == 'o')
local first_end = tonumber(call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2])
if not calm or (first_end or now + 1) <= now then
  --@include upkeep
  call('HDEL', stats, '')
  local returned = {}

  -- The id and the lease that a name stands for.
  local function named(name)
    local id = name:match('^%w+')
    if sub(name, -1) == '?' then
      name = lease_name(id, recall(id))
    end
    return id, name
  end

  local function ack(name)
    local id, lease = named(name)
    place = place + 1
    if call('ZREM', leases, lease) == 1 then
      acked = acked + 1
      forget(id, recall(id))
    else
      insert(places, place)
    end
  end

  -- As above; if a name is that of no lease or comes twice, one after another.
  local function ack_all(first, n)
    local end_ = first + n - 1
    if somebody_cares then
      for i = first, end_ do
        ack(ARGV[i])
      end
      return
    end
    local ends, ids, seen = call('ZMSCORE', leases, unpack(ARGV, first, end_)), {}, {}
    for i = 1, n do
      local name = ARGV[first + i - 1]
      if not ends[i] or seen[name] then
        for k = first, end_ do
          ack(ARGV[k])
        end
        return
      end
      seen[name] = true
      ids[i] = name:match('^%w+')
    end
    call('ZREM', leases, unpack(ARGV, first, end_))
    call('HDEL', jobs, unpack(ids))
    call('HDEL', meta, unpack(ids))
    acked, place = acked + n, place + n
  end

  -- base × 2^(attempt − 1), at most the longest, ± 20 %. The jitter of a call's jobs is spread by the golden ratio, so
  -- that jobs which failed together do not come back together.
  local function backoff(record, jitter)
    local wait = min((record.b or base_backoff) * 2 ^ (delivery(record) - 1), record.m or max_backoff)
    return floor(wait * (0.8 + 0.4 * ((jitter + place * 0.618034) % 1)))
  end

  local function nack(name, delay, dead_now, text, jitter)
    local id, lease = named(name)
    place = place + 1
    if call('ZREM', leases, lease) == 0 then
      return insert(places, place)
    end
    local record = recall(id)
    local used_up = delivery(record) >= (record.r or retries)
    local wait = tonumber(delay) or backoff(record, jitter)
    count('nacked', 1)
    if lapsed_at(record, now) then
      return expire(id, record)
    end
    record.n = (record.n or 0) + 1
    record.e = text ~= '' and text or record.e
    if dead_now or used_up then
      return bury(id, record, now)
    end
    record.t = now + wait -- the upkeep, which comes next, brings it back at once if that is now
    remember(id, record)
    if record.g then
      become('b', id, record)
    end
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
    if taken ~= '0' then
      if call('HSETNX', jobs, id, payload) == 0 then
        return
      end
      local record = packed ~= '' and unpacked(packed) or {}
      if packed ~= '' then
        plain = false
        take_again(id, record)
      end
      if taken == '1' then
        acked = acked - 1
      else
        count('pushed', 1)
        if record.f then
          call('ZADD', holds, record.f, record.u)
          record.f = nil
        end
      end
      if next(record) then
        remember(id, record)
      end
      if taken == '2' and (record.t or 0) > now then
        call('ZADD', delayed, record.t, id)
        if record.x then
          call('ZADD', expiry, record.x, id)
        end
        return
      end
    elseif call('ZREM', leases, name) == 0 then
      return
    end
    line_up(returned, id, recall(id))
  end

  while at <= last do
    local word, n = ARGV[at], tonumber(ARGV[at + 1])
    if word == 'a' then
      for i = 0, n - 1, BITE do
        ack_all(at + 2 + i, min(BITE, n - i))
      end
      at = at + 2 + n
    elseif word == 'r' then
      local ttl = tonumber(ARGV[at + 2])
      for i = at + 4, at + 3 + n do
        local before_this = acked
        ack(ARGV[i])
        if acked > before_this then
          local id = ARGV[i]:match('^%w+')
          call('HSET', results, id, ARGV[at + 3])
          call('ZADD', result_ends, now + ttl, id)
        end
      end
      -- Should nobody ever call again, they go by themselves, a while after the last of them ends.
      if call('PTTL', results) < ttl + KEPT then
        call('PEXPIRE', results, ttl + KEPT)
        call('PEXPIRE', result_ends, ttl + KEPT)
      end
      at = at + 4 + n
    elseif word == 'k' then
      for i = at + 6, at + 5 + n do
        nack(ARGV[i], ARGV[at + 2], ARGV[at + 3] == '1', ARGV[at + 4], tonumber(ARGV[at + 5]))
      end
      at = at + 6 + n
    elseif word == 'x' then
      for i = at + 3, at + 2 + n do
        extend(ARGV[i], tonumber(ARGV[at + 2]))
      end
      at = at + 3 + n
    elseif word == 'l' then
      local notes = {}
      for i = at + 2, at + 1 + n do
        if call('ZREM', leases, ARGV[i]) == 1 then
          local id = id_of(ARGV[i])
          lapse(id, recall(id), now, returned, notes)
        end
      end
      write(notes)
      at = at + 2 + n
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
end

local heard = at > 7 -- something of them

-- Ticks of QCRON: who comes first makes it, in the step that pushes its job; the others push nothing. Out of memory nobody does.
-- One that belongs to another partition than 0 is pushed there, if it is later than the last one there, and then partition 0
-- goes on to the next. Whoever finds that this was not done does both again; what was pushed is not pushed twice.
local TICKED = 2592000000 -- ms for which another partition remembers a last tick
local turned_away = {} -- runs, and why
while ARGV[at] == 'c' do
  local name, tick, following, place, its_run, key, loan = unpack(ARGV, at + 1, at + 7)
  local is_first, refusal
  at = at + 8
  if following == '-' then
    is_first = tonumber(call('HGET', cron, 'l' .. name) or 0) < tonumber(tick)
  else
    is_first = call('ZSCORE', ticks, name) == tick
  end
  if is_first and key ~= '' then
    --@include ending
    refusal = not holder(key) and contested(key, tonumber(loan))
  end
  call('HDEL', stats, '') -- a first write that takes no memory
  if not is_first or refusal then
    turned_away[tonumber(its_run) or 0] = refusal and '@' .. refusal or '!'
  elseif pushed ~= 'OOM' then
    changes.deduplicated = (changes.deduplicated or 0) + (its_run == '=' and 1 or 0)
    if following == '-' then
      for _, old in ipairs(call('ZRANGEBYSCORE', ticks, '-inf', now - TICKED, 'LIMIT', 0, 10)) do
        call('HDEL', cron, 'l' .. old)
        call('ZREM', ticks, old)
      end
      call('HSET', cron, 'l' .. name, tick)
      call('ZADD', ticks, now, name)
      call('PEXPIRE', cron, TICKED)
      call('PEXPIRE', ticks, TICKED)
    elseif following == '' then
      call('HDEL', cron, 'w' .. name, 'l' .. name, 'p' .. name)
      call('ZREM', ticks, name)
    else
      call('HSET', cron, 'l' .. name, tick, 'p' .. name, place)
      call('ZADD', ticks, following, name)
    end
  end
end

-- Pushes, a run of one kind at a time: the same priority and options, so the same record of them. The ids are written
-- over the suffixes, so that ARGV is what HSET takes. Where the queue is bounded each request is a run of its own. What keys and
-- groups need is made when the first of them comes, and once.
local run, free, apart = 0, bound, {}
local holder_of, contest, join_group
if bound then
  free = bound - ready_in('n') - ready_in('u') - ready_in('h') - ready_in('l') - call('ZCARD', delayed)
    - call('ZCARD', behind)
end
while ARGV[at] == 'p' do
  local n, letter, start = tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  local ttl, options = ARGV[at + 4], ARGV[at + 5]
  local first, end_ = at + 6, at + 5 + 2 * n
  at, run = end_ + 1, run + 1
  local record = options ~= '' and cmsgpack.unpack(options) or {}
  if (record.u or record.g) and not holder_of then
    --@include ending
    holder_of, contest, join_group = holder, contested, join
  end
  local held_by = false
  if record.u and pushing > 0 and not turned_away[run] then
    held_by = holder_of(record.u)
    local refusal = not held_by and contest(record.u, record.v)
    turned_away[run] = refusal and '@' .. refusal
  end
  if turned_away[run] then
    apart[#apart + 1] = run .. turned_away[run]
    changes.pushed = (changes.pushed or 0) - n
  elseif held_by then
    apart[#apart + 1] = run .. '=' .. held_by
    changes.pushed = (changes.pushed or 0) - n
    changes.deduplicated = (changes.deduplicated or 0) + n
  elseif free and n > free then
    apart[#apart + 1] = run
    changes.pushed = (changes.pushed or 0) - n
  elseif pushing > 0 then
    free = free and free - n
    local ids = {}
    for i = first, end_, 2 do
      local id = pushed .. ARGV[i]
      ARGV[i] = id
      ids[#ids + 1] = id
    end
    for i = first, end_, 2 * BITE do
      call('HSET', jobs, unpack(ARGV, i, min(i + 2 * BITE - 1, end_)))
    end

    local delayed_until
    if start ~= '' or ttl ~= '' or options ~= '' then
      local ms = tonumber((sub(start, 2))) or 0
      local due = sub(start, 1, 1) == '=' and ms or now + ms
      delayed_until = due > now and due
      record.x = ttl ~= '' and now + tonumber(ttl) or nil
      record.t = delayed_until or nil
      if record.u then
        call('HSET', unique, record.u, ids[1])
        if record.f then
          call('ZADD', holds, now + record.f, record.u)
        end
        record.f = nil
      end
      local packed = next(record) and cmsgpack.pack(record)
      plain = plain and not packed
      for _, id in ipairs(packed and ids or {}) do
        call('HSET', meta, id, packed)
        if delayed_until then
          call('ZADD', delayed, due, id)
        end
        if record.x then
          call('ZADD', expiry, record.x, id)
        end
      end
    end
    if record.g and not delayed_until then
      join_group(ids, record)
    elseif not delayed_until then
      plain = plain and letter == 'n'
      for i = 1, n, BITE do
        call('RPUSH', lists[letter], unpack(ids, i, min(i + BITE - 1, n)))
      end
    end
  end
end

if #apart > 0 and pushed ~= 'OOM' then
  pushed = pushed .. ':' .. table.concat(apart, ',')
  if not known[5] and changes.pushed == -pushing then
    call('HDEL', stats, 'stamp', 'pushed') -- refused its first push, the queue does not exist yet
    changes.pushed = 0
  end
end

-- Taking jobs from the heads of the lists, strictly by priority. Tombstones are passed over, a bounded number.
local TOMBSTONES = 500
local ids, payloads, records = {}, {}, false
local got, passed, asked = 0, 0, wanted
local most, tokens = math.huge, nil
if limited then
  local _
  most, _, tokens = room()
  wanted = min(wanted, most)
end
if leases_left then
  wanted = 0 -- those that are brought back by the next call go first
end

-- A worker that serves its own as fast as jobs come would leave those who wait at another one waiting for ever. So one that
-- has waited for so long is called for the last of the jobs, if here that would go to somebody who waits too.
local STARVED = 100 -- ms
local withheld = 0
if patient and patient > 0 and not nobody_waits then
  --@include wake
  local there = min(ready_in('u') + ready_in('h') + ready_in('n') + ready_in('l'), most)
  if there > 0 and there <= min(wanted, patient) and wake_one(now - STARVED) then
    wanted, withheld = there - 1, 1
  end
end

-- One by one, where a turn taken may be a turn given, and where jobs that have been ready for too long go first, the one that
-- waits longest before the others. Only the heads are looked at: who stands behind one waits for it anyway.
local by_turns = not plain and call('EXISTS', groups) == 1
local ages = limited and max_wait > 0
if by_turns or (ages and not plain) then
  --@include groups
  local heads = {} -- by letter; false: there is none

  local function head(letter)
    local id, record, gone, entry = first_in_line(letter, TOMBSTONES - passed)
    passed = passed + gone
    if not id then
      return false
    end
    local since = math.max(record.w or 0, record.t or floor(tonumber(sub(id, 1, 10), 36) / 1000))
    since = ages and since + max_wait <= now and since or math.huge
    return {id = id, record = record, entry = entry, since = since}
  end

  -- Whose it is: of a NOACK job the group's place is free at once.
  local asks, asked = at, tonumber(ARGV[at + 1])
  local function take(letter)
    local id, record, entry = heads[letter].id, heads[letter].record, heads[letter].entry
    heads[letter] = nil
    got = got + 1
    call('LPOP', lists[letter])
    ids[got], payloads[got] = id, call('HGET', jobs, id)
    while got > asked do
      asks = asks + 5
      asked = asked + tonumber(ARGV[asks + 1])
    end
    local next_may = record.g and take_turn(id, record, entry)
    if record.g and ARGV[asks + 4] == '1' then
      leave(id, record)
      next_may = true
    end
    for other, first in pairs(next_may and heads or {}) do
      heads[other] = first or nil
    end
  end

  while got < wanted do
    local first
    for letter in ('uhnl'):gmatch('.') do
      if heads[letter] == nil then
        heads[letter] = head(letter)
      end
      local since = heads[letter] and heads[letter].since or math.huge
      if heads[letter] and (not first and (by_turns or since < math.huge) or first and since < heads[first].since) then
        first = letter
      end
      if first and not ages then
        break
      end
    end
    if not first then
      break
    end
    take(first)
  end
end

for letter in (plain and 'n' or 'uhnl'):gmatch('.') do
  while got < wanted and passed < TOMBSTONES do
    local taken = call('LPOP', lists[letter], min(wanted - got, BITE))
    if not taken then
      break
    end
    local bodies = call('HMGET', jobs, unpack(taken))
    for i = 1, #taken do
      if bodies[i] then
        got = got + 1
        ids[got], payloads[got] = taken[i], bodies[i]
      else
        changes[letter] = (changes[letter] or 0) - 1
        passed = passed + 1
      end
    end
  end
end
more = more or passed >= TOMBSTONES
if tokens and got > 0 then
  call('HSET', stats, 'tokens', ('%.6f'):format(tokens - got), 'filled', now)
end

if got > 0 and not plain then
  records = {}
  for i = 1, got, BITE do
    local end_ = min(i + BITE - 1, got)
    for k, packed in ipairs(call('HMGET', meta, unpack(ids, i, end_))) do
      records[i + k - 1] = packed
    end
    call('ZREM', expiry, unpack(ids, i, end_))
  end
end

-- Leases for what was taken, in the order in which the pops asked. `names` goes into the lane's record, to repeat the
-- answer; of a NOACK job nothing is left that could be repeated.
-- Redis keeps a small sorted set as a plain list, in which 50 leases cost twice as much as in a real one: unless a
-- member was ever longer than this.
local LONG = ('-'):rep(65)
local names, served = {}, 0
while served < got do
  local lease, whose, noack = tonumber(ARGV[at + 2]), ARGV[at + 3], ARGV[at + 4] == '1'
  local first, end_ = served + 1, min(got, served + tonumber(ARGV[at + 1]))
  local until_then, entries, k = tostring(now + lease), {}, 0
  if not first_end then
    entries, k = {until_then, LONG}, 2
  end
  for i = first, noack and 0 or end_ do
    local name, held_until = ids[i], until_then
    if records and records[i] then
      local record = cmsgpack.unpack(records[i])
      local delivery = 1 + (record.n or 0) + (record.s or 0)
      name = delivery == 1 and name or name .. '.' .. delivery
      held_until = whose == '' and record.l and now + record.l or until_then
    end
    entries[k + 1], entries[k + 2] = held_until, name
    k = k + 2
    names[#names + 1] = name
  end
  for i = 1, noack and 0 or k, 2 * BITE do
    call('ZADD', leases, unpack(entries, i, min(i + 2 * BITE - 1, k)))
  end
  if noack and not plain and call('EXISTS', unique, awaited) > 0 then
    --@include ending
    for i = first, end_ do
      ended(ids[i], records and records[i] and cmsgpack.unpack(records[i]) or {})
    end
  end
  for i = first, noack and end_ or 0, BITE do
    call('HDEL', jobs, unpack(ids, i, min(i + BITE - 1, end_)))
    call('HDEL', meta, unpack(ids, i, min(i + BITE - 1, end_)))
  end
  if not first_end and not noack then
    call('ZREM', leases, LONG)
  end
  acked = noack and acked + end_ - served or acked
  served = end_
  at = at + 5
end

changes.acked = acked
settle()
-- A pop that found nothing keeps its record too: should it come once more, late and over a connection that was given up,
-- it must not take a job that nobody waits for.
if heard or asked > 0 or pushing > 0 then
  local outcome = pushed .. '\n' .. table.concat(places, ' ') .. '\n' .. table.concat(names, ' ')
  call('SET', lane, sequence .. '\n' .. outcome, 'PX', KEPT)
end
local t, due, ready, left = standing()
if limited then
  t, due, ready, left = as_limited(t, due, ready, left)
end
ready = math.max(ready - withheld, 0)

-- Waiting and waking. A worker stands in T:waiting exactly while it has clients that wait and nothing is ready; it comes
-- there in the very call that found nothing, so that no push can slip between.
--   1. Jobs are left: the worker that has waited longest is called, and leaves the list. If nobody heard, the next one.
--   2. A due time is sooner than what the waiting were told: all are told, by the same channel, and stay.
--   3. This worker joins, behind the others if it got jobs, and learns the due time from this reply.
-- What was withheld is not ready for this worker, and the one that it is for has been called.
-- Messages: queue/partition, "come"; the same, a space and ms, "something is due then".
local waits = waits_from and got <= waits_from and ready == 0 and not more
if waits or not nobody_waits then
  --@include wake
  local worker, queue = ARGV[1]:match('^(%S+) %S+ (%S+)$')
  call('HDEL', stats, '') -- a first write that takes no memory

  if not waits then
    call('ZREM', waiting, worker)
  end
  if ready > 0 or more then
    wake_one()
  end
  if due and due < (tonumber(known[6]) or math.huge) and call('EXISTS', waiting) == 1 then
    for _, other in ipairs(call('ZRANGE', waiting, 0, -1)) do
      if other ~= worker and tell(other, queue .. ' ' .. due) == 0 then
        call('ZREM', waiting, other)
      end
    end
    call('HSET', stats, 'due', due)
  end
  if waits then
    left = left % 64 -- not plain any more
    local keeps_its_place = got == 0 and 'NX' or 'CH'
    call('ZADD', waiting, keeps_its_place, now, worker)
    if due then
      call('HSET', stats, 'due', due)
    elseif known[6] then
      call('HDEL', stats, 'due')
    end
  end
end

return {t, due, ready, left, pushed, places, ids, payloads, records}
