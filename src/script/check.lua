-- Looks for what no sound queue has, and mends it if asked: QCHECK. A bounded part of the queue a call, going on where the
-- one before ended. What it finds it finds within one call, so what others do between two calls is never mistaken for a fault.
--
-- ARGV after the prelude's: where to go on: the part (1: begin), the cursor within it, and the surplus so far; 1 to mend.
-- Returns now, next due or false, ready, more (nothing was looked at: call again), where to go on (part 0: that was all),
-- the jobs seen, and a count for each kind in the order of KINDS.
--
-- Whether a job stands in a list cannot be asked, but by going through the list. What can be told at once is the sum: a body
-- for each entry. `surplus` are the entries too many that were found one by one; what the sum then lacks are bodies in no
-- index, what it has too much are entries of lists without a body. A list that is short is looked at whole.
--
-- Mending a sum, without holding Redis for the length of a list:
--   1. One list after another becomes T:sift, and the upkeep brings its entries back, a bounded number a call. Those that stand for
--      no job, or for the second time, stay behind; those that come back are noted in T:sifted, and so is whatever comes to
--      the front of a list meanwhile.
--   2. What then has no place, is not noted, and was neither pushed nor made ready since this began, goes to the back.

--@include upkeep
if ARGV[7] == '1' then
  call('HDEL', stats, '') -- a Redis that refuses writes refuses here, before anything was done
end
bring_back()

local KINDS = {
  'no_index', 'no_body', 'two_states', 'record', 'key', 'ttl', 'group', 'result', 'wait', 'tombstones',
}
local STEPS = 200 -- entries looked at, about 4 µs each
local BYTES = 262144 -- of a hash's values, which an older Redis brings along
local SHORT = 300 -- entries of a list that is looked at whole

local part, cursor, surplus, mends = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6]), ARGV[7] == '1'
local steps, seen, found = STEPS, 0, {}
for _, kind in ipairs(KINDS) do
  found[kind] = 0
end

-- True: it is to be mended.
local function finds(kind, by)
  found[kind] = found[kind] + (by or 1)
  return mends
end

local function exists(id)
  return call('HEXISTS', jobs, id) == 1
end

-- Looks at some fields of a hash, or members of a sorted set.
local function scan(command, key, look)
  local most = STEPS
  local values = command == 'HSCAN' and (redis.REDIS_VERSION_NUM or 0) < 0x00070400
  if values then
    for _, field in ipairs(call('HRANDFIELD', key, 5)) do
      most = min(most, math.max(1, floor(BYTES / (1 + call('HSTRLEN', key, field)))))
    end
  end
  local reply
  if command == 'HSCAN' and not values then
    reply = call('HSCAN', key, cursor, 'COUNT', most, 'NOVALUES')
  else
    reply = call(command, key, cursor, 'COUNT', most)
  end
  local entries = reply[2]
  cursor = reply[1]
  local width = (command == 'HSCAN' and not values) and 1 or 2
  for i = 1, #entries, width do
    look(entries[i])
  end
  steps = steps - 1 - #entries / width * STEPS / most
end

-- Where a job stands but for lists and groups, the one that stays first.
local function places(id, record)
  local name, found_in = lease_name(id, record), {}
  if call('ZSCORE', leases, name) then
    insert(found_in, {leases, name})
  end
  for _, key in ipairs({delayed, dead, behind}) do
    if call('ZSCORE', key, id) then
      insert(found_in, {key, id})
    end
  end
  return found_in
end

local function place(id, record)
  local first = places(id, record)[1]
  return first and first[1]
end

-- Of a job that has a group: what its group knows of it.
local function look_at_member(id, record, key)
  local tag = tag_of(record)
  local entry = first_of(tag, 't')
  local has_turn = entry and entry:match('^%w+') == id
  local is = ''
  for letter in ('blw'):gmatch('.') do
    is = is .. (call('ZSCORE', groups, tag .. letter .. id) and letter or '')
  end
  is = is .. (has_turn and 't' or '')
  local due = key == leases and 'l' or key == delayed and (record.n or 0) > 0 and 'b' or key == behind and 'w' or ''
  if not key and is == 't' or key and is == due then
    return
  end
  local lost = not key and not has_turn
  surplus = surplus + (mends and 0 or lost and -1 or key and has_turn and 1 or 0)
  if not finds(lost and 'no_index' or 'group') then
    return
  end
  if has_turn then
    count(sub(id, -1), 1)
  end
  clear(tag, id)
  call('ZREM', behind, id)
  if key == leases or due == 'b' then
    become(due, id, record)
  elseif key == delayed or key == dead then
    arrange(tag)
  else
    enter(id, record)
  end
end

local function look_at_body(id)
  seen = seen + 1
  local record = recall(id)
  local found_in = places(id, record)
  for i = 2, #found_in do
    surplus = surplus + (mends and 0 or 1)
    if finds('two_states') then
      call('ZREM', found_in[i][1], found_in[i][2])
    end
  end
  local key = found_in[1] and found_in[1][1]
  if record.g then
    look_at_member(id, record, key)
  end
  if record.x and key ~= leases and key ~= dead and not call('ZSCORE', expiry, id) and finds('ttl') then
    call('ZADD', expiry, record.x, id)
  end
end

local function look_at_record(id)
  if not exists(id) and finds('record') then
    call('HDEL', meta, id)
  end
end

local function of_jobs(key)
  return function(name)
    local id = name:match('^%w+')
    local stale = key == leases and exists(id) and name ~= lease_name(id, recall(id))
    if not exists(id) or stale then
      surplus = surplus + ((mends or stale) and 0 or 1)
      if finds('no_body') then
        call('ZREM', key, name)
      end
    end
  end
end

local function look_at_expiry(id)
  local key = exists(id) and place(id, recall(id))
  if (not exists(id) or key == leases or key == dead) and finds('ttl') then
    call('ZREM', expiry, id)
  end
end

-- Also whether the group of one that waits can ever go on.
local function look_at_group(member)
  local tag = sub(member, 1, member:byte(1) + 1)
  local letter, entry = sub(member, #tag + 1, #tag + 1), sub(member, #tag + 2)
  local id = entry:match('^%w+')
  local record = exists(id) and recall(id) or {}
  if not record.g or tag_of(record) ~= tag then
    surplus = surplus + (letter == 't' and not mends and 1 or 0)
    if finds('group') then
      call('ZREM', groups, member)
      count(sub(id, -1), letter == 't' and 1 or 0)
      arrange(tag)
    end
  elseif letter == 'w' and first_of(tag, 'w') == id and not (first_of(tag, 't') or first_of(tag, 'l')) then
    local backs_off = first_of(tag, 'b')
    if not (backs_off and is_older(backs_off, id)) and not call('ZSCORE', throttled, tag) and finds('group') then
      arrange(tag)
    end
  end
end

local function look_at_key(key)
  if not holder(key) or (has_ended(holder(key)) and not call('ZSCORE', holds, key)) then
    if finds('key') then
      call('HDEL', unique, key)
      call('ZREM', holds, key)
    end
  end
end

local function look_at_hold(key)
  if call('HEXISTS', unique, key) == 0 and finds('key') then
    call('ZREM', holds, key)
  end
end

local function look_at_loan(key)
  if not call('ZSCORE', recalls, key) and finds('key') then
    call('ZADD', recalls, now, key)
  end
end

local function look_at_recall(key)
  if call('HEXISTS', lent, key) == 0 and finds('key') then
    call('ZREM', recalls, key)
  end
end

local function look_at_wait(member)
  if has_ended(member:match('^%S+')) and finds('wait') then
    call('ZREM', awaited, member)
  end
end

local function look_at_result(id)
  if not call('ZSCORE', result_ends, id) and finds('result') then
    call('HDEL', results, id)
  end
end

local function look_at_end(id)
  if call('HEXISTS', results, id) == 0 and finds('result') then
    call('ZREM', result_ends, id)
  end
end

-- From its tail on: there nothing is taken, so that no entry is passed over. `cursor`: how many were looked at. An entry that is
-- put out of its place leaves what names nothing.
local function look_at_list(letter)
  local list, length = lists[letter], call('LLEN', lists[letter])
  local whole = length <= SHORT
  local last = whole and -1 or -1 - tonumber(cursor)
  local first = whole and 0 or last - STEPS + 1
  local entries = call('LRANGE', list, first, last)
  local once, buried = {}, 0
  for i, entry in ipairs(entries) do
    local id, record = in_line(entry)
    if not id then
      buried = buried + 1
    elseif once[entry] or (id == entry and place(id, record)) then
      surplus = surplus + (mends and 0 or 1)
      if finds('two_states') then
        call('LSET', list, i - #entries + last, id .. '.0')
        count(letter, 1)
        buried = buried + 1
      end
    end
    once[entry] = true
  end
  if whole then
    local wrong = buried - (tombstones[letter] or 0) - (changes[letter] or 0)
    surplus = surplus + (mends and 0 or wrong)
    if wrong ~= 0 and finds(wrong > 0 and 'no_body' or 'tombstones', math.abs(wrong)) then
      count(letter, wrong)
    end
  end
  steps = steps - #entries - 1
  cursor = (whole or #entries < STEPS) and '0' or tostring(-first)
end

-- From here on `surplus` is when the mending began, which names it: nobody goes on with another's.
local function look_at_sum()
  local entries = call('ZCARD', delayed) + call('ZCARD', leases) + call('ZCARD', dead) + call('ZCARD', behind)
  for letter in pairs(lists) do
    entries = entries + ready_in(letter)
  end
  local lacks = call('HLEN', jobs) - entries + surplus
  local mended = lacks ~= 0 and finds(lacks > 0 and 'no_index' or 'no_body', math.abs(lacks))
  if not mended or call('EXISTS', sifted) == 1 then
    part = math.huge
    return
  end
  surplus = now
  local last = call('HMGET', stats, 'turns', 'stamp')
  call('HSET', sifted, '', now .. ' ' .. (last[1] or 0) .. ' ' .. (last[2] or 0))
end

local last_turn, last_stamp -- before it began
local function is_going_on()
  local begun, turn, stamp = (call('HGET', sifted, '') or ''):match('^(%d+) (%d+) (%d+)$')
  last_turn, last_stamp = tonumber(turn), tonumber(stamp)
  if tonumber(begun) == surplus then
    return true
  end
  part = math.huge
  return false
end

-- The upkeep of the calls that follow does it.
local function sift_list(letter)
  if is_going_on() and call('EXISTS', lists[letter]) == 1 then
    changes[letter] = -(tombstones[letter] or 0)
    call('RENAME', lists[letter], sift)
    steps = 0
  end
end

local function place_body(id)
  local record = recall(id)
  local entry = not record.g and id or first_of(tag_of(record), 't') or ''
  if place(id, record) or entry:match('^%w*') ~= id or call('HEXISTS', sifted, entry) == 1 then
    return
  end
  local stamp, ready_at = tonumber(sub(id, 1, 10), 36), record.t or 0
  local is_new = stamp > last_stamp or (record.w or 0) >= surplus or (ready_at >= surplus and ready_at <= now)
  if entry ~= id then
    is_new = tonumber(entry:match('%d+$')) > last_turn
  end
  if is_new then
    return
  elseif ready_at > now and entry == id then
    call('ZADD', delayed, ready_at, id)
  else
    call('RPUSH', lists[sub(id, -1)], entry)
    call('HSET', sifted, entry, '')
  end
end

local function place_bodies()
  if not is_going_on() then
    return
  end
  scan('HSCAN', jobs, place_body)
  if cursor == '0' then
    call('UNLINK', sifted)
  end
end

local function scanning(command, key, look)
  return function()
    scan(command, key, look)
  end
end

local function in_list(look, letter)
  return function()
    look(letter)
  end
end

local PARTS = {
  scanning('HSCAN', jobs, look_at_body), scanning('HSCAN', meta, look_at_record),
  scanning('ZSCAN', delayed, of_jobs(delayed)), scanning('ZSCAN', leases, of_jobs(leases)),
  scanning('ZSCAN', dead, of_jobs(dead)), scanning('ZSCAN', behind, of_jobs(behind)),
  scanning('ZSCAN', expiry, look_at_expiry), scanning('ZSCAN', groups, look_at_group),
  scanning('HSCAN', unique, look_at_key), scanning('ZSCAN', holds, look_at_hold),
  scanning('HSCAN', lent, look_at_loan), scanning('ZSCAN', recalls, look_at_recall),
  scanning('ZSCAN', awaited, look_at_wait), scanning('HSCAN', results, look_at_result),
  scanning('ZSCAN', result_ends, look_at_end), in_list(look_at_list, 'u'), in_list(look_at_list, 'h'),
  in_list(look_at_list, 'n'), in_list(look_at_list, 'l'), look_at_sum, in_list(sift_list, 'u'), in_list(sift_list, 'h'),
  in_list(sift_list, 'n'), in_list(sift_list, 'l'), place_bodies,
}

local again = more
while not more and steps > 0 and PARTS[part] do
  PARTS[part]()
  if cursor == '0' then
    part = part + 1
  end
end
if PARTS[part] and call('EXISTS', sifted) == 1 then
  call('PEXPIRE', sifted, 60000)
end
settle()
local t, due, ready, left = standing()
if mends and ready > 0 then
  --@include wake
  wake_one()
end
local reply = {t, due, ready, (again and 1 or 0) + left - left % 16, PARTS[part] and part or 0, cursor, surplus, seen}
for _, kind in ipairs(KINDS) do
  insert(reply, found[kind])
end
return reply
