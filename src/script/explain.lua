-- Why a job does not run now: QEXPLAIN. Brings back what is due first; while `more` is 1 it may not be the last word.
--
-- ARGV after the prelude's: id; the limits, as batch.lua takes them.
-- Returns now, next due or false, ready, more, then nothing if there is no such job, or: state (ready delayed leased dead),
-- reason (delayed leased dead paused group rate concurrency behind ready), its detail: a number (the ms it is due or its lease
-- ends, when the rate allows the next, how many are leased at once, how many are ahead) or a text (what the worker said of
-- the failure, the id of the job that its group is busy with) or false.

--@include upkeep
--@include limits
bring_back()
first_in_line(sub(ARGV[4], -1), 500) -- who is first stands behind nobody's tombstone
settle()

-- So far a list is searched for the job's place: 0.2 ms.
local DEEPEST = 10000

local id = ARGV[4]
local t, due, ready, left = standing()
if call('HEXISTS', jobs, id) == 0 then
  return {t, due, ready, left}
end
local record = recall(id)
local function says(state, reason, detail)
  return {t, due, ready, left, state, reason, detail or false}
end

local lease_ends = call('ZSCORE', leases, lease_name(id, record))
if lease_ends then
  return says('leased', 'leased', tonumber(lease_ends))
end
local ready_at = call('ZSCORE', delayed, id)
if ready_at then
  return says('delayed', 'delayed', tonumber(ready_at))
end
if call('ZSCORE', dead, id) then
  return says('dead', 'dead', record.e)
end

read_limits(ARGV[5])
if paused then
  return says('ready', 'paused')
end
local entry = id
if record.g then
  local tag = tag_of(record)
  entry = first_of(tag, 't') or ''
  if entry:match('^%w*') ~= id then
    local backs_off = first_of(tag, 'b')
    local earlier = backs_off and is_older(backs_off, id) and backs_off
    local busy_with = earlier or (is_full(tag) and first_of(tag, 'l')) or entry:match('^%w+') or first_of(tag, 'w')
    local allowed = call('ZSCORE', throttled, tag)
    if busy_with == id and allowed then
      return says('ready', 'rate', tonumber(allowed))
    end
    -- Itself: it may go since a setting was changed, which shows when the next job of its group ends.
    return says('ready', 'group', busy_with == id and first_of(tag, 'l') or busy_with)
  end
end
local ahead, letter = 0, sub(id, -1)
for higher in ('uhnl'):gmatch('.') do
  if higher == letter then
    break
  end
  ahead = ahead + ready_in(higher)
end
ahead = ahead + (call('LPOS', lists[letter], entry, 'MAXLEN', DEEPEST) or DEEPEST)
local most, again = room()
if ahead > 0 then
  return says('ready', 'behind', ahead)
elseif most == 0 and leased_at_once > 0 and call('ZCARD', leases) >= leased_at_once then
  return says('ready', 'concurrency', leased_at_once)
elseif most == 0 then
  return says('ready', 'rate', again)
end
return says('ready', 'ready')
