-- Groups: jobs that go one after another. Not a script: it stands where the scripts say so.
--
-- T:groups has a member for each unfinished job of a group that was ever ready: the group's tag, a letter, the id. The letter:
-- b it backs off, l it is leased, t it is the group's turn, w it waits. All have one score, so that the members of a group
-- stand together, by letter and then in push order, and the first of each letter is found at once. The tag begins with the
-- length of the group's name, so that no tag begins another.
--
--   1. A group has one turn at most: its first ready job, which stands in the ready list of that job's priority among the jobs
--      without a group. It has none while as many of its jobs are leased as may be, or an earlier one backs off.
--   2. A turn stands in the list, and in T:groups, as the id, a dot and a number of its own. One that is taken away leaves
--      that in the list, where it names nothing any more: a tombstone, also if the job gets another turn.
--   3. The others wait in T:behind, by priority and in push order, and stand in no list.
--   4. Whatever happens to a job of the group, `arrange` looks who has the turn now. A new turn goes to the back of its list,
--      but that of a job whose delivery was lost goes to the front, as such jobs do.
--   5. A rate is a bucket of one second's worth of jobs, one at least. All that is kept of it is when it will be full again,
--      in T:buckets, and nothing once it is. While it is empty the group has no turn, and stands in T:throttled until it may
--      have one: then the upkeep gives it. Whose turn it is already keeps it.
local at_once, rated_jobs, rated_ms = ARGV[3]:match('(%d+) (%d+) (%d+)$')
at_once = tonumber(at_once) -- leased jobs of one group
local spacing = rated_jobs ~= '0' and tonumber(rated_ms) / tonumber(rated_jobs) -- ms for one more job, false: no rate
local filling = spacing and math.max(1000, spacing) -- ms from empty to full
local RANK = {u = '0', h = '1', n = '2', l = '3'} -- as text: Redis takes long over writing numbers

-- When a job was pushed, by its id or entry: two numbers, as Lua compares words by the server's locale.
local function stamp_of(id)
  return tonumber(sub(id, 1, 10), 36)
end

local function number_of(id)
  return tonumber((id:match('^%w+', 11):gsub('Z?%l$', '')), 36)
end

local function is_older(id, other)
  local stamp, its_stamp = stamp_of(id), stamp_of(other)
  return stamp < its_stamp or stamp == its_stamp and number_of(id) < number_of(other)
end

local function tag_of(record)
  return string.char(#record.g) .. record.g
end

local function first_of(tag, letter)
  local from = tag .. letter
  local member = call('ZRANGEBYLEX', groups, '[' .. from, '(' .. from .. '~', 'LIMIT', 0, 1)[1]
  return member and sub(member, #from + 1)
end

local function is_full(tag)
  return call('ZLEXCOUNT', groups, '[' .. tag .. 'l', '(' .. tag .. 'm') >= at_once
end

-- When its rate allows the group's next job.
local function allowed_at(tag)
  local full_at = tonumber(call('ZSCORE', buckets, tag) or 0)
  if full_at > now + filling then -- a slower rate said so, which was changed since
    full_at = now + filling
    call('ZADD', buckets, full_at, tag)
  end
  return full_at - filling + spacing
end

-- A job of the group is handed out.
local function spend(tag)
  if spacing then
    call('ZADD', buckets, math.max(tonumber(call('ZSCORE', buckets, tag) or 0), now) + spacing, tag)
  end
end

-- The job that an entry of a ready list stands for, and its record; nothing: it is a tombstone.
local function in_line(entry)
  local id = entry:match('^%w+')
  local packed = call('HGET', meta, id)
  local record = packed and cmsgpack.unpack(packed) or {}
  if id == entry then
    return call('HEXISTS', jobs, id) == 1 and id or nil, record
  end
  return record.g and call('ZSCORE', groups, tag_of(record) .. 't' .. entry) and id or nil, record
end

-- The first job in line, its record, how many tombstones before it went, at most so many, and its entry.
local function first_in_line(letter, most)
  local passed = 0
  while passed < most do
    local entry = call('LINDEX', lists[letter], 0)
    local id, record
    if entry then
      id, record = in_line(entry)
    end
    if id or not entry then
      return id, record, passed, entry
    end
    call('LPOP', lists[letter])
    changes[letter] = (changes[letter] or 0) - 1
    passed = passed + 1
  end
  return nil, nil, passed
end

-- It is this job's turn. `fronts`: entries by letter that go to lists later on; without it the turn goes to the back at once.
local function give_turn(tag, id, fronts)
  local letter = sub(id, -1)
  local entry = id .. '.' .. call('HINCRBY', stats, 'turns', 1)
  call('ZADD', groups, '0', tag .. 't' .. entry)
  if fronts then
    fronts[letter] = fronts[letter] or {}
    table.insert(fronts[letter], entry)
  else
    call('RPUSH', lists[letter], entry)
  end
end

-- Looks whose turn it is.
local function arrange(tag, fronts)
  local entry, full = first_of(tag, 't'), is_full(tag)
  if full and not entry and not spacing then
    return
  end
  local first, backs_off = first_of(tag, 'w'), first_of(tag, 'b')
  local turn = entry and entry:match('^%w+')
  if turn and not (first and is_older(first, turn)) then
    first = turn
  end
  local may = first and not (backs_off and is_older(backs_off, first)) and not full
  local allowed = may and spacing and turn ~= first and allowed_at(tag)
  if allowed and allowed > now + spacing / 1000 then -- dates are not exact
    may = false
    call('ZADD', throttled, math.ceil(allowed), tag)
  elseif spacing then
    call('ZREM', throttled, tag)
  end
  if turn and not (may and turn == first) then
    local letter = sub(turn, -1)
    call('ZREM', groups, tag .. 't' .. entry)
    call('ZADD', groups, '0', tag .. 'w' .. turn)
    call('ZADD', behind, RANK[letter], turn)
    changes[letter] = (changes[letter] or 0) + 1
  end
  if may and turn ~= first then
    call('ZREM', groups, tag .. 'w' .. first)
    call('ZREM', behind, first)
    give_turn(tag, first, fronts)
  end
end

-- From whatever it was; its entry in a list, if it had one, is the caller's to count.
local function clear(tag, id)
  local entry = first_of(tag, 't')
  if entry and entry:match('^%w+') == id then
    call('ZREM', groups, tag .. 't' .. entry)
  end
  call('ZREM', groups, tag .. 'b' .. id, tag .. 'l' .. id, tag .. 'w' .. id)
end

-- Jobs of one group are ready, in their order and in no other place so far.
local function join(ids, record, fronts)
  local tag = tag_of(record)
  local first, from = first_of(tag, ''), 1
  if not first and not spacing then
    give_turn(tag, ids[1], fronts)
    from = 2
  end
  for i = from, #ids, BITE / 2 do
    local members, ranks = {}, {}
    for k = i, min(i + BITE / 2 - 1, #ids) do
      members[#members + 1], members[#members + 2] = '0', tag .. 'w' .. ids[k]
      ranks[#ranks + 1], ranks[#ranks + 2] = RANK[sub(ids[k], -1)], ids[k]
    end
    call('ZADD', groups, unpack(members))
    call('ZADD', behind, unpack(ranks))
  end
  local turn = first and first:match('^t(%w+)')
  if from == 1 and not (turn and is_older(turn, ids[1])) then
    arrange(tag, fronts)
  end
end

-- It is ready again, in its place in the group.
local function enter(id, record, fronts)
  clear(tag_of(record), id)
  join({id}, record, fronts)
end

-- It was in line, or leased, and is now leased, or backs off.
local function become(letter, id, record)
  local tag = tag_of(record)
  clear(tag, id)
  call('ZADD', groups, '0', tag .. letter .. id)
  arrange(tag)
end

-- It had its group's turn, by that entry, and is leased now. True: another may have the turn.
local function take_turn(id, record, entry)
  local tag = tag_of(record)
  spend(tag)
  call('ZREM', groups, tag .. 't' .. entry)
  call('ZADD', groups, '0', tag .. 'l' .. id)
  local next_may = at_once > 1 or spacing
  if next_may then
    arrange(tag)
  end
  return next_may
end

-- It has ended.
local function leave(id, record)
  local tag = tag_of(record)
  if call('ZREM', groups, tag .. 'l' .. id) == 0 then
    clear(tag, id)
    call('ZREM', behind, id)
  end
  local first = first_of(tag, '')
  if spacing or (first and sub(first, 1, 1) ~= 't') then
    arrange(tag)
  end
end
