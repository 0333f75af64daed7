-- Takes access away from one user or token.
-- KEYS[1]  hash: user:<user> or token:<id> -> {"at":s,"until":s}
-- ARGV     field, seconds it holds, seconds the issuer's clock may be ahead
-- Returns  what stands in the hash now

-- How many others are looked at. Each call adds one and this removes those of a sample
-- that have run out, so they stay a small part of the hash and no call takes long.
local SAMPLE = 20

local time = redis.call('TIME')
local now = tonumber(time[1])

local function read(text)
  local good, one = pcall(cjson.decode, text)
  good = good and type(one) == 'table'
  if good and type(one['at']) == 'number' and type(one['until']) == 'number' then
    return one
  end
end

local sample = redis.call('HRANDFIELD', KEYS[1], SAMPLE, 'WITHVALUES')
for i = 1, #sample, 2 do
  -- In a script that is one flat list, whatever the connection speaks.
  local one = read(sample[i + 1])
  if one and one['until'] <= now then
    redis.call('HDEL', KEYS[1], sample[i])
  end
end

-- Up to the next whole second: tokens tell only whole ones, and some issuers round up.
local at = now + 1 + tonumber(ARGV[3])
local ends = now + 1 + tonumber(ARGV[2])
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local before = stored and read(stored)
if before then
  -- In whole seconds, and never earlier than what was promised.
  at = math.max(at, math.ceil(before['at']))
  ends = math.max(ends, math.ceil(before['until']))
end
local text = string.format('{"at":%.0f,"until":%.0f}', at, ends)
redis.call('HSET', KEYS[1], ARGV[1], text)
return text
