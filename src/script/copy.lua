-- Gives a partition other than 0 the settings that partition 0 has, as a whole. So a partition is opened, a change of the
-- settings gets there, and one that a failed call left behind is mended: whoever meets it does this first.
-- Whoever waits here is called, as for configure.lua.
--
-- ARGV after the prelude's: the version that this partition was seen to have, that of the settings, then field, value,
-- field, value …
-- Returns now, next due or false, ready, more. If the version is another by now nothing is done, and the reply is that to a
-- call with old settings.

if version ~= ARGV[4] then
  return {'SETTINGS', version, call('HGETALL', overrides)}
end
call('HDEL', stats, '') -- a Redis that refuses writes refuses here, before anything was done
call('UNLINK', overrides)
call('HSET', overrides, unpack(ARGV, 6))
call('HSET', stats, 'cfg', ARGV[5])
--@include wake
wake_all()
return {standing()}
