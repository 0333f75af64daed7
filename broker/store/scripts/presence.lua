-- Keeps who is present in a session, and says who has joined and who has left.
-- KEYS: zset user -> when the lease runs out, in ms; the channel has the same name.
-- ARGV: mode, then
--   renew  lease_ms, keep_ms, prune or -, users: here they are. Who was no member has
--          joined. With prune, whose lease has run out has left.
--   leave  linger_ms, keep_ms, users: they have left this worker, perhaps for good.
--   prune  whose lease has run out has left. Answer: ms until the next one runs out,
--          -1 if there is none.
--   who    limit: answer {count, users}, of those whose lease runs.
-- Members are exactly those of whom `joined` was said and not yet `left`.
local key, mode = KEYS[1], ARGV[1]
local PAGE = 500
local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function ms(number) return string.format('%.0f', number) end

local function publish(event, users)
  if #users == 0 then return end
  local count = call('ZCOUNT', key, '(' .. ms(now), '+inf')
  call('PUBLISH', key, cjson.encode({event = event, users = users, count = count}))
end

local function prune()
  local gone = call('ZRANGE', key, '-inf', ms(now), 'BYSCORE', 'LIMIT', 0, PAGE)
  if #gone == 0 then return end
  call('ZREM', key, unpack(gone))
  publish('left', gone)
end

if mode == 'renew' then
  local joined = {}
  for i = 5, #ARGV do
    if not call('ZSCORE', key, ARGV[i]) then joined[#joined + 1] = ARGV[i] end
    -- Only ever later: it may have been set by another worker, or a longer linger.
    call('ZADD', key, 'GT', ms(now + ARGV[2]), ARGV[i])
  end
  call('PEXPIRE', key, ARGV[3])
  publish('joined', joined)
  if ARGV[4] == 'prune' then prune() end
elseif mode == 'leave' then
  for i = 4, #ARGV do
    call('ZADD', key, 'XX', ms(now + ARGV[2]), ARGV[i])
  end
  call('PEXPIRE', key, ARGV[3])
elseif mode == 'prune' then
  prune()
  local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return first[2] and math.max(0, first[2] - now) or -1
elseif mode == 'who' then
  local from = '(' .. ms(now)
  return {
    call('ZCOUNT', key, from, '+inf'),
    call('ZRANGE', key, from, '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[2]),
  }
end
