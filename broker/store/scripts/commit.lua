-- Stores how far a consumer has come, and never takes it back.
-- KEYS: hash consumer -> "<ms>-<n>" or "<ms>-<n>@<seq>".
-- ARGV: mode, consumer, position, ttl_ms, consumers_max. Modes:
--   forward  the position, if it lies ahead of what is stored
--   begin    the position, if nothing is stored
--   replace  the position, whatever is stored: what was is of another history
-- Answer: what is stored now; nil if the hash has consumers_max others.
local key = KEYS[1]
local mode, consumer, position, ttl_ms, consumers_max = unpack(ARGV)

-- These numbers have 64 bits, and Lua's are exact up to 2^53 only: so digits are
-- compared. Of two without leading zeros the longer one is larger.
local function larger(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

local U64_MAX = '18446744073709551615'

-- What is no position counts as nothing: it would never be passed.
local function parse(text)
  local ms, n, seq = string.match(text or '', '^0*(%d+)%-0*(%d+)@?(%d*)$')
  if not ms or larger(ms, U64_MAX) or larger(n, U64_MAX) then return nil end
  return {ms = ms, n = n, seq = seq}
end

local function ahead(new, old)
  if new.ms ~= old.ms then return larger(new.ms, old.ms) end
  if new.n ~= old.n then return larger(new.n, old.n) end
  return old.seq == '' and new.seq ~= ''
end

local stored = redis.call('HGET', key, consumer)
if not stored and redis.call('HLEN', key) >= tonumber(consumers_max) then
  return nil
end
local old = parse(stored)
if mode == 'replace' or not old
    or (mode == 'forward' and ahead(parse(position), old)) then
  redis.call('HSET', key, consumer, position)
  stored = position
end
redis.call('PEXPIRE', key, ttl_ms)
return stored
