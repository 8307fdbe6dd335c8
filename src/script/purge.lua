-- Removes the jobs in one state, a bounded number a call: QPURGE. The lane calls again, with a new sequence, until
-- nothing is left.
--
-- ARGV after the prelude's: state (ready delayed leased dead, or all).
-- Returns now, next due or false, ready, more, how many were removed, whether some are left (1 or 0).

local PURGED = 400

--@include upkeep
if before then
  local removed, rest = before:match('^(%d+) (%d)$')
  local t, due, ready, left = standing()
  return {t, due, ready, left, tonumber(removed), tonumber(rest)}
end
call('HDEL', stats, '') -- a Redis that refuses writes refuses here, before anything was done
bring_back()

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
  local ids = room > 0 and call('LPOP', lists[letter], room) or {}
  local live = removed
  remove(ids)
  count(letter, removed - live - #ids)
  rest = rest or ready_in(letter) > 0
end

if state == 'ready' or state == 'all' then
  for letter in ('uhnl'):gmatch('.') do
    purge_list(letter)
  end
end
purge_sorted('delayed', delayed)
purge_sorted('leased', leases)
purge_sorted('dead', dead)
rest = rest or more

settle()
call('SET', lane, sequence .. '\n' .. removed .. ' ' .. (rest and 1 or 0), 'PX', KEPT)
local t, due, ready, left = standing()
return {t, due, ready, left, removed, rest and 1 or 0}
