-- Adds an entry to a stream, once for each id that its sender gives it.
--
-- KEYS[1]    remembers the id: digest of what was said, then the entry it became
-- KEYS[2]    the stream, in the same slot
-- ARGV[1]    digest of what is said now
-- ARGV[2]    for how many milliseconds the id is remembered
-- ARGV[3..]  what XADD gets behind the key
--
-- Returns the id of the entry, or nothing if the sender's id stands for another one.

local known = redis.call('GET', KEYS[1])
if known then
  if string.sub(known, 1, #ARGV[1]) ~= ARGV[1] then
    return false
  end
  return string.sub(known, #ARGV[1] + 1)
end
local entry = redis.call('XADD', KEYS[2], unpack(ARGV, 3))
redis.call('SET', KEYS[1], ARGV[1] .. entry, 'PX', ARGV[2])
return entry
