-- Removes the jobs in one state, a bounded number a call: QPURGE. The lane calls again, with a new sequence, until
-- nothing is left.
--
-- ARGV after the prelude's: state (ready delayed leased dead, or all).
-- Returns now, next due or false, ready, more, how many were removed, whether some are left (1 or 0).

--@include upkeep
local PURGED = 200 / dearness
if before then
  local removed, rest = before:match('^(%d+) (%d)$')
  local t, due, ready, left = standing()
  return {t, due, ready, left, tonumber(removed), tonumber(rest)}
end
call('HDEL', stats, '') -- a Redis that refuses writes refuses here, before anything was done
bring_back()
somebody_cares = somebody_cares or call('EXISTS', groups) == 1 -- a delay that was over may have made the first of a group

local state = ARGV[4]
local room, removed, rest = PURGED, 0, false

local function remove(ids)
  for _, id in ipairs(somebody_cares and ids or {}) do
    ended(id, recall(id))
  end
  room = room - #ids
  removed = removed + variadic('HDEL', jobs, ids, 1, #ids)
  variadic('HDEL', meta, ids, 1, #ids)
  variadic('ZREM', expiry, ids, 1, #ids)
end

local function purge_sorted(name, key)
  if state ~= name and state ~= 'all' then
    return
  end
  local names, ids = room > 0 and call('ZRANGE', key, 0, room - 1) or {}, {}
  for i, entry in ipairs(names) do
    ids[i] = entry:match('^%w+')
  end
  variadic('ZREM', key, names, 1, #names)
  remove(ids)
  rest = rest or call('EXISTS', key) == 1
end

local function purge_list(letter)
  local taken, ids = room > 0 and call('LPOP', lists[letter], room) or {}, {}
  for _, entry in ipairs(somebody_cares and taken or {}) do
    ids[#ids + 1] = in_line(entry)
  end
  ids = somebody_cares and ids or taken
  local live = removed
  remove(ids)
  count(letter, removed - live - #taken)
  room = room - (#taken - #ids)
  rest = rest or ready_in(letter) > 0
end

-- One at a time: the end of one may give another its turn, which is then in line.
local function purge_behind()
  for _, id in ipairs(room > 0 and call('ZRANGE', behind, 0, room - 1) or {}) do
    if call('ZREM', behind, id) == 1 then
      remove({id})
    end
  end
  rest = rest or call('EXISTS', behind) == 1
end

if state == 'ready' or state == 'all' then
  purge_behind()
  for letter in ('uhnl'):gmatch('.') do
    purge_list(letter)
  end
end
purge_sorted('delayed', delayed)
purge_sorted('leased', leases)
purge_sorted('dead', dead)
rest = rest or more

call('SET', lane, sequence .. '\n' .. removed .. ' ' .. (rest and 1 or 0), 'PX', KEPT)
return finish(removed, rest and 1 or 0)
