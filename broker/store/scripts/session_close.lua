-- Closes a session on purpose.
-- ARGV: idle_ms, session.
-- Answer: due ms or 0, news, fence of the session or 0 if it was not open.

-- [shared] Every session script begins with this; a test holds the copies to be equal.
-- KEYS are of one user: session -> start, lease end, last activity, idle since, buried
-- at; tombstones; outbox. The start is the fence as well: it only rises. A session is
-- open while it is in `sessions`, and counts against the limit while it has a lease.
local sessions, leases, active, idle, evicted, tombs, news = unpack(KEYS)
local DAY_MS, UNTOLD_MS, PAGE = 86400000, 5000, 100
local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local told, mine = {}, {}

-- What happened goes into the outbox in the same step. Who ran the script announces it.
local function note(event, session, fence, more)
  local entry = more or {}
  fence = tonumber(fence)
  entry.event, entry.session, entry.fence, entry.at = event, session, fence, now
  local field = string.format('%s|%s|%.0f|%.0f', event, session, fence, now)
  local json = cjson.encode(entry)
  call('HSET', news, field, json)
  call('PEXPIRE', news, DAY_MS)
  mine[field] = true
  told[#told + 1] = {field, json}
end

-- Adds what somebody before us put into the outbox and did not announce, and says when
-- the user is to be looked at again; 0 for never.
local function finish(idle_ms)
  local untold = call('HLEN', news) - #told
  local all = untold > 0 and call('HGETALL', news) or {}
  for i = 1, #all, 2 do
    local at = tonumber(string.match(all[i], '%d+$'))
    if not mine[all[i]] and math.abs(now - at) >= UNTOLD_MS and #told < PAGE then
      told[#told + 1] = {all[i], all[i + 1]}
      untold = untold - 1
    end
  end
  local due = untold > 0 and now + UNTOLD_MS or math.huge
  local lease = call('ZRANGE', leases, 0, 0, 'WITHSCORES')
  local since = call('ZRANGE', idle, 0, 0, 'WITHSCORES')
  due = math.min(due, tonumber(lease[2]) or due, since[2] and since[2] + idle_ms or due)
  return due < math.huge and due or 0
end
-- [end]

-- [bury] Ends a session and leaves a tombstone, so that nobody opens it unawares.
local TOMBS_MAX = 1000
local function bury(session, fence, reason, replaced_by)
  for _, key in ipairs({sessions, leases, active, idle}) do
    call('ZREM', key, session)
  end
  local tomb = {fence = tonumber(fence), reason = reason, replaced_by = replaced_by}
  call('ZADD', evicted, now, session)
  call('HSET', tombs, session, cjson.encode(tomb))
  for _, old in ipairs(call('ZRANGE', evicted, 0, -TOMBS_MAX - 1)) do
    call('ZREM', evicted, old)
    call('HDEL', tombs, old)
  end
  -- With the youngest tombstone the others have served their time as well.
  call('PEXPIRE', evicted, DAY_MS)
  call('PEXPIRE', tombs, DAY_MS)
end
-- [end]

local idle_ms, session = tonumber(ARGV[1]), ARGV[2]
local fence = tonumber(call('ZSCORE', sessions, session)) or 0
if fence > 0 then
  bury(session, fence, 'closed', '')
  note('session_closed', session, fence, {reason = 'requested'})
end
return {finish(idle_ms), told, fence}
