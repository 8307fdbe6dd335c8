-- `pushed`: the stamp that the ids of a call begin with, ten digits of base 36.
local digits = {}
for i = 10, 1, -1 do
  local digit = stamp % 36
  digits[i] = digit < 10 and 48 + digit or 87 + digit
  stamp = (stamp - digit) / 36
end
pushed = string.char(unpack(digits))
