-- Unique keys: T:unique says which job holds a key, T:holds until when a key is held whatever becomes of its job (FOR).
--   1. A push takes a key that nobody holds; if somebody does, its answer is that job.
--   2. When a job ends (acknowledged, dead, deleted, expired) it gives its key back, unless FOR holds it for longer.
--   3. The upkeep gives back the keys of ended jobs whose FOR is over.
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

-- `record`: of the job that has ended.
local function release(id, record)
  local key = record.u
  if key and call('HGET', unique, key) == id then
    local held = tonumber(call('ZSCORE', holds, key))
    if not held or held <= now then
      call('HDEL', unique, key)
      call('ZREM', holds, key)
    end
  end
end
