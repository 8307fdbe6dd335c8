-- What a queue's limits leave to be popped, from a word that says: paused (1 or 0), leased at once, jobs of the rate, per so
-- many ms, ms after which a ready job goes before higher priorities (each 0: no bound).
local paused, leased_at_once, rate, per, max_wait

local function read_limits(word)
  paused, leased_at_once, rate, per, max_wait = word:match('(%d+) (%d+) (%d+) (%d+) (%d+)$')
  paused, leased_at_once = paused == '1', tonumber(leased_at_once)
  rate, per, max_wait = tonumber(rate), tonumber(per), tonumber(max_wait)
end

-- How many jobs may be popped now, when the rate allows the next one if it allows none, and what its bucket holds.
local function room()
  local left, again, tokens = math.huge, nil, nil
  if leased_at_once > 0 then
    left = leased_at_once - call('ZCARD', leases)
  end
  if rate > 0 then
    local full = math.max(1, rate * 1000 / per) -- one second's worth
    local held = call('HMGET', stats, 'tokens', 'filled')
    local gained = (now - (tonumber(held[2]) or now)) * rate / per
    tokens = min(full, (tonumber(held[1]) or full) + gained)
    again = tokens < 1 and now + math.ceil((1 - tokens) * per / rate) or nil
    left = min(left, floor(tokens))
  end
  return paused and 0 or math.max(left, 0), again, tokens
end

-- How the queue stands for those who pop.
local function as_limited(t, due, ready, left)
  local most, again = room()
  if again and ready > 0 and not paused then
    due = min(due or again, again)
  end
  if most == 0 then
    left = left % 8 -- nobody is called
  end
  return t, due, min(ready, most), left
end
