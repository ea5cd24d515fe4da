"""The writes of a store in Redis, each an atomic script. Its keys: see redis_store.py."""

# Redis doesn't roll back a script that fails, so everything that could fail is checked before anything is written.
KINDS = """
local function wrong(p, kinds)
  for name, kind in pairs(kinds) do
    local found = redis.call('TYPE', p .. name).ok
    if found ~= kind and found ~= 'none' then
      return redis.error_reply('WRONGTYPE ' .. p .. name .. ' is a ' .. found)
    end
  end
end
local function revised(value)
  local number, rest = string.match(value, '^(%d+) (.*)$')
  return number or '', rest or value
end
local function refused(p, user)
  local problem = wrong(p, {[':v:' .. user] = 'hash', [':e:' .. user] = 'hash', [':a:' .. user] = 'hash',
                   [':f:' .. user] = 'hash', [':t:' .. user] = 'zset'})
  if problem then return problem end
  for _, value in ipairs(redis.call('HMGET', p .. ':v:' .. user, 'version', 'archive')) do
    if value and not string.find(value, '^%d+$') then
      return redis.error_reply('WRONGTYPE ' .. p .. ':v:' .. user .. ' holds what is no number')
    end
  end
end
local function shared_refused(p)
  local problem = wrong(p, {[':updates'] = 'stream', [':items'] = 'hash', [':calls'] = 'string',
                            [':arrivals'] = 'string'})
  if problem then return problem end
  for _, name in ipairs({':calls', ':arrivals'}) do
    if not string.find(redis.call('GET', p .. name) or '0', '^%d+$') then
      return redis.error_reply('WRONGTYPE ' .. p .. name .. ' is no number')
    end
  end
end
"""

# KEYS: prefix. ARGV: max_events, slack, max_updates, former, then of each event user, key, time, body, version and
# known_at.
APPEND = (
    KINDS
    + """
local p, most = KEYS[1], tonumber(ARGV[1])
local room, call, changes, users = most + math.floor(most / tonumber(ARGV[2])), nil, {}, {}
local problem = shared_refused(p)
if problem then return problem end
for i = 5, #ARGV, 6 do
  problem = refused(p, ARGV[i])
  if problem then return problem end
end
for i = 5, #ARGV, 6 do
  local user, key, time, body = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local version, known_at = tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5])
  local events, archive, formers = p .. ':e:' .. user, p .. ':a:' .. user, p .. ':f:' .. user
  local old = redis.call('HGET', events, key)
  local older = not old and redis.call('HGET', archive, key)
  old = old or older
  local before = old and select(2, revised(old))
  local former = redis.call('HGET', formers, key) or ''
  local readable, content = pcall(cjson.decode, before or '{}')
  local stale = false
  if readable and type(content) == 'table' then
    local kept = tonumber(content.known_at) or 0
    stale = (tonumber(content.version) or 0) > version or (0 < known_at and known_at < kept)
  end
  if before ~= body and not stale and not string.find(former, string.sub(redis.sha1hex(body), 1, 12), 1, true) then
    call = call or redis.call('INCR', p .. ':calls')
    local revision = redis.call('HINCRBY', p .. ':v:' .. user, 'version', 1)
    redis.call('HSET', events, key, revision .. ' ' .. body)
    if older then
      redis.call('HDEL', archive, key)
      redis.call('HINCRBY', p .. ':v:' .. user, 'archive', 1)
    end
    if before then
      former = string.sub(former .. ' ' .. string.sub(redis.sha1hex(before), 1, 12), -13 * tonumber(ARGV[4]))
      redis.call('HSET', formers, key, former)
    end
    redis.call('ZADD', p .. ':t:' .. user, time, key)
    redis.call('XADD', p .. ':updates', 'MAXLEN', '~', ARGV[3], '*', 'call', call, 'user', user, 'key', key,
               'revision', revision, 'body', body, 'before', before or '')
    changes[#changes + 1] = {(i - 5) / 6, before or ''}
    users[user] = true
  end
end
for user in pairs(users) do
  local times = p .. ':t:' .. user
  local count = redis.call('ZCARD', times)
  if count > room then
    for _, key in ipairs(redis.call('ZRANGE', times, 0, count - most - 1)) do
      redis.call('HSET', p .. ':a:' .. user, key, redis.call('HGET', p .. ':e:' .. user, key))
      redis.call('HDEL', p .. ':e:' .. user, key)
    end
    redis.call('ZREMRANGEBYRANK', times, 0, count - most - 1)
    redis.call('HINCRBY', p .. ':v:' .. user, 'version', 1)
    redis.call('HINCRBY', p .. ':v:' .. user, 'archive', 1)
  end
end
return changes
"""
)

# KEYS: prefix. ARGV: max_updates, then id and features of each item.
PUT_ITEMS = (
    KINDS
    + """
local p = KEYS[1]
local problem = shared_refused(p)
if problem then return problem end
local call = redis.call('INCR', p .. ':calls')
for i = 2, #ARGV, 2 do
  local old = redis.call('HGET', p .. ':items', ARGV[i])
  local number = old and revised(old) or ''
  if number == '' then
    number = redis.call('INCR', p .. ':arrivals')
    if number == 1 then  -- items may be there from before they were counted so
      number = redis.call('INCRBY', p .. ':arrivals', redis.call('HLEN', p .. ':items'))
    end
  end
  redis.call('HSET', p .. ':items', ARGV[i], number .. ' ' .. ARGV[i + 1])
  redis.call('XADD', p .. ':updates', 'MAXLEN', '~', ARGV[1], '*', 'call', call, 'item', ARGV[i],
             'features', ARGV[i + 1])
end
"""
)

# KEYS: prefix. ARGV: user, then keys of events to forget.
FORGET = (
    KINDS
    + """
local p, user, count = KEYS[1], ARGV[1], 0
local problem = refused(p, user)
if problem then return problem end
for i = 2, #ARGV do
  count = count + redis.call('HDEL', p .. ':e:' .. user, ARGV[i]) + redis.call('HDEL', p .. ':a:' .. user, ARGV[i])
  redis.call('HDEL', p .. ':f:' .. user, ARGV[i])
  redis.call('ZREM', p .. ':t:' .. user, ARGV[i])
end
redis.call('HINCRBY', p .. ':v:' .. user, 'version', 1)
redis.call('HINCRBY', p .. ':v:' .. user, 'archive', 1)
return count
"""
)

# Reads all in one script, so that versions and events fit. ARGV: user, the archive's version that the caller has.
EVENTS = """
local about = redis.call('HMGET', KEYS[1] .. ':v:' .. ARGV[1], 'version', 'archive')
local archived = false
if (about[2] or '0') ~= ARGV[2] then
  archived = redis.call('HGETALL', KEYS[1] .. ':a:' .. ARGV[1])
end
return {about, redis.call('HGETALL', KEYS[1] .. ':e:' .. ARGV[1]), archived}
"""
