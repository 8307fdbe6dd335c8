-- What the end of a job (acknowledged, dead, deleted, expired) means to others: its unique key is free, its group goes
-- on, and those who wait for its result are told.
--
-- Unique keys: T:unique says which job holds a key, T:holds until when a key is held whatever becomes of its job (FOR).
--   1. A push takes a key that nobody holds; if somebody does, its answer is that job.
--   2. When a job ends it gives its key back, unless FOR holds it for longer.
--   3. The upkeep gives back the keys of ended jobs whose FOR is over.
--
-- A key belongs to the partition that its hash names, its home. A job that has a group is in the group's partition, and so
-- must its key be: its home lends it to there.
--   1. T:lent at home says which partition has the key, and by which loan: a number that grows (Redis's clock in µs, or more).
--   2. The partition that has a key judges pushes with it as if the key were its own, and home takes none.
--   3. When somebody else wants the key, or a look is due, that partition gives it back, unless it is held there. From then on it
--      takes no push that comes by a loan of that number or a lower one (`returned`): one that was on its way meanwhile is
--      refused, and has to ask for the key again.
--   4. Then home lends it to the next, or has it again.
-- Each step is one call in one partition, and whoever dies between two leaves a key that can still be recalled.
--@include groups
--@include tell

local function has_ended(id)
  return call('HEXISTS', jobs, id) == 0 or call('ZSCORE', dead, id)
end

local function holder(key)
  local id = call('HGET', unique, key)
  local held = id and tonumber(call('ZSCORE', holds, key))
  if held and held <= now and has_ended(id) then
    return false
  end
  return id
end

-- Why a push may not take a key here that nobody holds here: the partition and the loan by which it is lent; or where it came by
-- a loan that was given back, a number that the next one must exceed.
local function contested(key, loan)
  if loan then
    local past = math.max(tonumber(call('HGET', stats, 'returned')) or 0, tonumber(version) or 0)
    return loan <= past and ('%.0f'):format(past)
  end
  return call('HGET', lent, key)
end

-- A job that had ended goes on: it has its key again, unless another holds it by now. True: the key is not here any more.
local function take_again(id, record)
  local key = record.u
  if not key or holder(key) then
    return false
  elseif contested(key, record.v) then
    return true
  end
  call('HSET', unique, key, id)
  call('ZREM', holds, key)
  return false
end

-- T:awaited has a member for each job and worker whose client waits for its result, "id worker": all of one score, so that
-- those of one id stand together.
local somebody_cares = call('EXISTS', unique, awaited, groups) > 0
local somebody_waits = call('EXISTS', awaited) == 1

-- `record`: of the job that has ended.
local function ended(id, record)
  if record.g then
    leave(id, record)
  end
  local key = record.u
  if key and call('HGET', unique, key) == id then
    local held = tonumber(call('ZSCORE', holds, key))
    if not held or held <= now then
      call('HDEL', unique, key)
    end
    if held and held <= now then
      call('ZREM', holds, key)
    end
  end
  if somebody_waits then
    local queue = ARGV[1]:match('%S+$')
    for _, member in ipairs(call('ZRANGEBYLEX', awaited, '[' .. id .. ' ', '(' .. id .. '!')) do
      tell(member:match('%S+$'), queue .. ' =' .. id)
      call('ZREM', awaited, member)
    end
  end
end
