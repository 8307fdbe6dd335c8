-- First deliveries are acknowledged, all at once: n of them, from ARGV[first] on. Nothing is done if one of the names is that of no
-- lease; `acked` is false then. ZADD NX tells how many are not, cheaper than ZMSCORE, which makes a text of every score: it adds
-- those, with an end that no lease has, and we take them out again.
-- A name given twice shows when fewer are removed than were asked for, and then its later places did not count.
local end_, marks = first + n - 1, {}
for i = first, end_ do
  local at = 2 * (i - first)
  marks[at + 1], marks[at + 2] = '0', ARGV[i]
end
if redis.pcall('ZADD', leases, 'NX', unpack(marks)) == 0 then
  acked = call('ZREM', leases, unpack(ARGV, first, end_))
  call('HDEL', jobs, unpack(ARGV, first, end_))
  local seen = {}
  for i = first, acked < n and end_ or 0 do
    if seen[ARGV[i]] then
      places[#places + 1] = i - first + 1
    end
    seen[ARGV[i]] = true
  end
else
  call('ZREMRANGEBYSCORE', leases, '0', '0')
end
