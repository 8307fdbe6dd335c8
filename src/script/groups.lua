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
local at_once = tonumber(ARGV[3]:match('%d+$')) -- leased jobs of one group
local RANK = {u = 0, h = 1, n = 2, l = 3}

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

-- `fronts`: entries by letter that go to lists later on; without it the turn goes to the back at once.
local function arrange(tag, fronts)
  local entry, first, backs_off = first_of(tag, 't'), first_of(tag, 'w'), first_of(tag, 'b')
  local turn = entry and entry:match('^%w+')
  if turn and not (first and first < turn) then
    first = turn
  end
  local may = first and not (backs_off and backs_off < first) and not is_full(tag)
  if turn and not (may and turn == first) then
    local letter = sub(turn, -1)
    call('ZREM', groups, tag .. 't' .. entry)
    call('ZADD', groups, 0, tag .. 'w' .. turn)
    call('ZADD', behind, RANK[letter], turn)
    changes[letter] = (changes[letter] or 0) + 1
  end
  if may and turn ~= first then
    local letter = sub(first, -1)
    entry = first .. '.' .. call('HINCRBY', stats, 'turns', 1)
    call('ZREM', groups, tag .. 'w' .. first)
    call('ZREM', behind, first)
    call('ZADD', groups, 0, tag .. 't' .. entry)
    if fronts then
      fronts[letter] = fronts[letter] or {}
      table.insert(fronts[letter], entry)
    else
      call('RPUSH', lists[letter], entry)
    end
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

-- It is ready, in its place in the group.
local function enter(id, record, fronts)
  local tag = tag_of(record)
  clear(tag, id)
  call('ZADD', groups, 0, tag .. 'w' .. id)
  call('ZADD', behind, RANK[sub(id, -1)], id)
  arrange(tag, fronts)
end

-- It was in line, or leased, and is now leased, or backs off.
local function become(letter, id, record)
  local tag = tag_of(record)
  clear(tag, id)
  call('ZADD', groups, 0, tag .. letter .. id)
  arrange(tag)
end

-- It has ended.
local function leave(id, record)
  local tag = tag_of(record)
  clear(tag, id)
  call('ZREM', behind, id)
  arrange(tag)
end
