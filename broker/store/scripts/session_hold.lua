-- Opens a session or renews some: their leases are extended and the limit holds again.
-- ARGV: idle_ms, limit (0: none), "start" or "activity", the session that is being
-- opened or "", until when tombstones give way to it (ms, 0: none); then for each session:
-- name, fence as the caller knows it (0: not), ms to lease, ms since its last activity.
-- Answer: due ms or 0, news, victims {session, fence, replaced_by},
-- and for each session {verdict, fence, new or not, replaced_by}.

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

local idle_ms, limit, evict_by = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local opening, deliberate_at = ARGV[4], tonumber(ARGV[5])
local grown = false

local function tomb_of(session)
  local at = tonumber(call('ZSCORE', evicted, session))
  if not at or at <= now - DAY_MS then return nil end
  local json = call('HGET', tombs, session)
  local tomb = json and cjson.decode(json)
  tomb = tomb or {fence = at, reason = 'evicted', replaced_by = ''}
  tomb.at = at
  return tomb
end

-- Rising even if the clock went back, and above that of the session's former life.
local function new_fence(tomb)
  local top = call('ZRANGE', sessions, -1, -1, 'WITHSCORES')
  return math.max(now, (tonumber(top[2]) or 0) + 1, tomb and tomb.fence + 1 or 0)
end

-- Gives a session its place in `sessions`; what the caller knows is what Redis lost.
local function place(session, known, tomb)
  local stored = tonumber(call('ZSCORE', sessions, session))
  local fence = math.max(stored or 0, known)
  if fence == 0 then fence = new_fence(tomb) end
  if fence ~= stored then call('ZADD', sessions, fence, session) end
  local counted = stored and call('ZSCORE', leases, session)
  if not stored and known == 0 then
    note('session_opened', session, fence)
  elseif not stored then
    note('session_resumed', session, fence, {reason = 'registered_again'})
  elseif not counted then
    note('session_resumed', session, fence)
  end
  if not counted then
    grown = true
    call('ZREM', idle, session)
  end
  return fence, not stored and known == 0
end

local function hold(session, known, lease_ms, quiet_ms)
  local tomb = tomb_of(session)
  if tomb then
    -- One older than what the caller holds was cleared, and a failover brought it back.
    local older = tomb.fence < known
    if not older and tomb.at > deliberate_at then
      return {tomb.reason, tomb.fence, 0, tomb.replaced_by}
    end
    if not older then known = 0 end
    call('ZREM', evicted, session)
    call('HDEL', tombs, session)
  end
  local fence, new = place(session, known, tomb)
  call('ZADD', leases, 'GT', now + lease_ms, session)
  call('ZADD', active, 'GT', now - quiet_ms, session)
  return {'open', fence, new and 1 or 0, ''}
end

-- All that count, the first to be evicted first.
local function ranked()
  local found = {}
  local all = call('ZRANGE', sessions, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    if call('ZSCORE', leases, all[i]) then
      local one = {session = all[i], fence = tonumber(all[i + 1])}
      local at = evict_by == 'activity' and call('ZSCORE', active, all[i])
      one.rank = tonumber(at or one.fence)
      found[#found + 1] = one
    end
  end
  table.sort(found, function(a, b)
    if a.rank ~= b.rank then return a.rank < b.rank end
    if a.fence ~= b.fence then return a.fence < b.fence end
    return a.session < b.session
  end)
  return found
end

local function evict()
  local victims = {}
  if limit == 0 or call('ZCARD', leases) <= limit then return victims end
  local found = ranked()
  local stays = opening ~= '' and opening or found[#found].session
  for _, one in ipairs(found) do
    if #victims >= #found - limit then break end
    if one.session ~= stays then
      bury(one.session, one.fence, 'evicted', stays)
      note('session_evicted', one.session, one.fence, {replaced_by = stays})
      victims[#victims + 1] = {one.session, one.fence, stays}
    end
  end
  return victims
end

local held, place_of = {}, {}
for i = 6, #ARGV, 4 do
  held[#held + 1] =
    hold(ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]))
  place_of[ARGV[i]] = #held
end
expire()
local victims = grown and evict() or {}
for _, victim in ipairs(victims) do
  local place = place_of[victim[1]]
  if place then held[place] = {'evicted', victim[2], 0, victim[3]} end
end
return {finish(idle_ms), told, victims, held}
