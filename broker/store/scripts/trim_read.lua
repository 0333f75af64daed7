-- Removes from a stream what every consumer group has read and acknowledged.
--
-- KEYS[1]  the stream
--
-- Returns how many entries were removed. Nothing is where there is no group: nobody
-- has read anything then. In one script, because a group that is made or set back
-- between the look and the cut would miss what is cut.

-- Ids are two unsigned 64-bit numbers, which Lua's do not hold: they stay text.
local function is_lower(a, b)
  if #a ~= #b then
    return #a < #b
  end
  return a < b
end

local function is_before(a, b)
  local a_ms, a_n = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_n = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then
    return is_lower(a_ms, b_ms)
  end
  return is_lower(a_n, b_n)
end

local function following(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  if #n > 15 then
    return id -- The sum would not be exact: one read entry stays.
  end
  return string.format('%s-%.0f', ms, tonumber(n) + 1)
end

-- The first entry that this group still needs.
local function first_needed(group)
  local first = following(group['last-delivered-id'])
  if group['pending'] > 0 then
    local pending = redis.call('XPENDING', KEYS[1], group['name'])[2]
    if is_before(pending, first) then
      return pending
    end
  end
  return first
end

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local oldest = false
for _, pairs_of_group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #pairs_of_group, 2 do
    group[pairs_of_group[i]] = pairs_of_group[i + 1]
  end
  local first = first_needed(group)
  if not oldest or is_before(first, oldest) then
    oldest = first
  end
end
if not oldest then
  return 0
end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', oldest)
