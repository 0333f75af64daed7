-- Does what time brings: leases run out, idle sessions close, tombstones crumble.
-- ARGV: idle_ms.
-- Answer: due ms or 0, news.

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

-- [expire] Whose lease has run out is idle from now on, and does not count any more.
-- Idle since now, not since then: nobody may have been there to renew it.
local function expire()
  for _, session in ipairs(call('ZRANGEBYSCORE', leases, '-inf', now)) do
    local fence = call('ZSCORE', sessions, session)
    call('ZREM', leases, session)
    if fence then
      call('ZADD', idle, now, session)
      note('session_idle', session, fence)
    end
  end
end
-- [end]

local idle_ms = tonumber(ARGV[1])

-- A server that is short of memory may have dropped one key and kept the others.
local function mend()
  local open = call('ZCARD', sessions)
  local known = call('ZCARD', leases) + call('ZCARD', idle)
  if open == known and open == call('ZCARD', active) then return end
  for _, key in ipairs({leases, idle, active}) do
    call('ZINTERSTORE', key, 2, key, sessions, 'WEIGHTS', 1, 0)
  end
  for _, session in ipairs(call('ZRANGE', sessions, 0, -1)) do
    call('ZADD', active, 'NX', now, session)
    if not call('ZSCORE', leases, session) and not call('ZSCORE', idle, session) then
      call('ZADD', idle, now, session)
      note('session_idle', session, call('ZSCORE', sessions, session))
    end
  end
end

local function close_idle()
  for _, session in ipairs(call('ZRANGEBYSCORE', idle, '-inf', now - idle_ms)) do
    local fence = call('ZSCORE', sessions, session)
    for _, key in ipairs({sessions, active, idle}) do call('ZREM', key, session) end
    if fence then note('session_closed', session, fence, {reason = 'idle'}) end
  end
end

local function prune()
  for _, old in ipairs(call('ZRANGEBYSCORE', evicted, '-inf', now - DAY_MS)) do
    call('ZREM', evicted, old)
    call('HDEL', tombs, old)
  end
end

mend()
expire()
close_idle()
prune()
return {finish(idle_ms), told}
