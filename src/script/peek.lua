-- Jobs in one state, next to be served first: QPEEK. Brings back what is due first; while `more` is 1 the view is not
-- final. The lane asks for a bounded number.
--
-- ARGV after the prelude's: state (ready delayed leased dead), how many, from which on (0: the first).
-- Returns now, next due or false, ready, more, then for each job: id, ms (due, end of its lease, death; false: ready),
-- payload, meta record or false.

--@include upkeep
bring_back()
settle()

local state, wanted, offset = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local t, due, ready, left = standing()
local found = {t, due, ready, left}

local function show(id, ms)
  local n = #found
  found[n + 1], found[n + 2], found[n + 3], found[n + 4] = id, ms, call('HGET', jobs, id), call('HGET', meta, id)
  wanted = wanted - 1
end

local function show_sorted(key)
  local entries = call('ZRANGE', key, offset, offset + wanted - 1, 'WITHSCORES')
  for i = 1, #entries, 2 do
    show(entries[i]:match('^%w+'), tonumber(entries[i + 1]))
  end
end

-- Steps over tombstones, which count for nothing, and over what comes before the offset. A list without tombstones is
-- entered at the offset; in one that has some, so many entries are looked at and no more, and jobs behind them
-- are not shown.
local LOOKED_AT = 5000

local function show_list(letter)
  local live = ready_in(letter)
  if live <= offset then
    offset = offset - live
    return
  end
  local at = 0
  if live == call('LLEN', lists[letter]) then
    at, offset = offset, 0
  end
  local bound = at + LOOKED_AT
  while wanted > 0 and at < bound do
    local ids = call('LRANGE', lists[letter], at, at + 99)
    for _, entry in ipairs(ids) do
      local id = wanted > 0 and in_line(entry)
      if id then
        if offset > 0 then
          offset = offset - 1
        else
          show(id, false)
        end
      end
    end
    if #ids < 100 then
      break
    end
    at = at + 100
  end
  offset = 0
end

-- Those that wait behind their groups come after those of their priority that are in line.
local function show_behind(letter)
  local rank = RANK[letter]
  local ids = call('ZRANGEBYSCORE', behind, rank, rank, 'LIMIT', offset, wanted)
  for _, id in ipairs(ids) do
    show(id, false)
  end
  offset = math.max(0, offset - call('ZCOUNT', behind, rank, rank))
end

if state == 'ready' then
  for letter in ('uhnl'):gmatch('.') do
    if wanted > 0 then
      show_list(letter)
    end
    if wanted > 0 then
      show_behind(letter)
    end
  end
else
  show_sorted(({delayed = delayed, leased = leases, dead = dead})[state])
end
return found
