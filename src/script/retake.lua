-- A job that was made ready again takes its unique key again, which was in another partition by then (ending.lua). A repeat comes to
-- the same.
--
-- ARGV after the prelude's: the job; its key; the loan by which that is here, empty if it is at home.
-- Returns now, next due or false, ready, more, and why it cannot have it yet: the loan by which the key is lent to another partition,
-- or the number that its next loan must exceed. Nothing: it has the key, or has no right to it any more.

--@include upkeep
call('HDEL', stats, '') -- a Redis that refuses writes refuses here, before anything was done
bring_back()

local id, key, loan = ARGV[4], ARGV[5], tonumber(ARGV[6])
local record, why = recall(id), ''
if record.u == key and not has_ended(id) and not holder(key) then
  record.v = loan
  why = contested(key, loan) or ''
  if why == '' then
    remember(id, record)
    take_again(id, record)
  end
end

return finish(why)
