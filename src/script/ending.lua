-- What the end of a job (acknowledged, dead, deleted, expired) means to others: its unique key is free, its group goes
-- on, and those who wait for its result are told.
--
-- Unique keys: T:unique says which job holds a key, T:holds until when a key is held whatever becomes of its job (FOR).
--   1. A push takes a key that nobody holds; if somebody does, its answer is that job.
--   2. When a job ends it gives its key back, unless FOR holds it for longer.
--   3. The upkeep gives back the keys of ended jobs whose FOR is over.
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

-- A job that had ended goes on: it has its key again, unless another holds it by now.
local function take_again(id, key)
  if key and not holder(key) then
    call('HSET', unique, key, id)
    call('ZREM', holds, key)
  end
end

-- T:awaited has a member for each job and worker whose client waits for its result, "id worker": all of one score, so that
-- those of one id stand together.
local somebody_cares = call('EXISTS', unique, awaited, groups) > 0

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
      call('ZREM', holds, key)
    end
  end
  if somebody_cares then
    local queue = ARGV[1]:match('%S+$')
    for _, member in ipairs(call('ZRANGEBYLEX', awaited, '[' .. id .. ' ', '(' .. id .. '!')) do
      tell(member:match('%S+$'), queue .. ' =' .. id)
      call('ZREM', awaited, member)
    end
  end
end
