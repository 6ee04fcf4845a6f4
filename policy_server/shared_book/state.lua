-- What a shard of the book holds, read as it is needed and written at the end, all at once.
--
-- KEYS[1] names the shard, hash tag included; all keys of the shard begin with it:
--   :shard             epoch, identity of the server process that it was begun on, clock, counter,
--                      and how far the database is known to have come
--   :E:limit:<key>     one limit: field "limit", "pending" and one "@<agent>" for each share
--   :E:limits          names of limits
--   :E:dirty           limits that are to be settled
--   :E:scarce          limits that have too few units, by when to look again
--   :E:recovering      limits whose predecessor's promises are open, by until when
--   :E:refilling       limits that nobody has or wants, by when their units are full
--   :E:sessions        agent -> session
--   :E:ends            agents by when the next part of their lease is over
--   :E:keys:<agent>    limits of which an agent has a share
--   :E:released:<agent>  which start of an agent was released a while ago
--   :E:unconfirmed:<agent>  limits whose newest grant it has not confirmed, by when that was sent
-- E is the epoch: a new one begins empty, and what an old one left is nobody's.
local SHARD = KEYS[1]
local EPOCH = tonumber(ARGV[2])
local PREFIX = SHARD .. ':' .. ARGV[2] .. ':'

-- Versions are texts of one length, of which a newer one is the greater: as numbers they are more
-- than Lua can count. First comes the epoch, which grows by what the counter has too much.
local EPOCH_SPAN = 4294967296
local NO_VERSION = string.rep('0', 20)

local LIVE, RATES_OVER, DRAINED, FLOORS_OVER = 0, 1, 2, 3

local now, wall, counter
local terms = {}
local limits, sessions = {}, {}
local dirty = {}

-- Which process this is, and which line of data: either changes where data may have been lost.
-- False for a replica, which has no say.
local function read_identity()
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  local replication = redis.call('INFO', 'replication')
  if string.match(replication, 'role:(%a+)') ~= 'master' then return false end
  return (run or '') .. ' ' .. (string.match(replication, 'master_replid:(%x+)') or '')
end

local function read_terms(text)
  local numbers = {}
  for number in string.gmatch(text, '%d+') do numbers[#numbers + 1] = tonumber(number) end
  terms = {
    session = numbers[1], rates = numbers[2], connections = numbers[3], floors = numbers[4],
    hold_rate = numbers[5], hold_connection = numbers[6], repeat_after = numbers[7],
    drift = numbers[8],
  }
end

-- Read what the shard is; return why it can't be used, and with "fenced" its epoch, or nothing.
local function open_shard()
  local identity = read_identity()
  if not identity then return 'replica' end
  local fields = redis.call(
    'HMGET', SHARD .. ':shard', 'epoch', 'identity', 'wall', 'now', 'counter', 'terms')
  if not fields[1] then return 'lost' end
  if tonumber(fields[1]) > EPOCH then return 'fenced', tonumber(fields[1]) end
  if tonumber(fields[1]) < EPOCH or fields[2] ~= identity then return 'lost' end
  counter = tonumber(fields[5])
  read_terms(fields[6])
  wall, now = read_clock(tonumber(fields[3]), tonumber(fields[4]))
end

-- Limits and shares.

local function unpack_limit(key, text)
  local units, count, period, occupied, pool, owed, since, unclaimed, last_old_version, gone, durable,
    setter, set_at, scarce = cmsgpack.unpack(text)
  return {
    key = key, name = PREFIX .. 'limit:' .. key,
    units = units, count = count, period = period, occupied = occupied, pool = pool, since = since,
    -- Events that were used of units which it has lost since, and that are not earned again.
    owed = owed,
    unclaimed = unclaimed,
    -- Grants up to this version say what the limit was before.
    last_old_version = last_old_version,
    -- Holdings that are durable and whose shares are gone.
    gone = gone,
    -- What is durable of the limit itself; empty: nothing of it is.
    durable = durable,
    -- Which server said last what the limit is, and when.
    setter = setter, set_at = set_at,
    -- Whether it is among the scarce.
    is_scarce = scarce == 1,
    shares = {}, removed = {}, changed = {},
  }
end

local function pack_limit(limit)
  return cmsgpack.pack(
    limit.units, limit.count, limit.period, limit.occupied, limit.pool, limit.owed, limit.since,
    limit.unclaimed, limit.last_old_version, limit.gone, limit.durable, limit.setter, limit.set_at,
    limit.is_scarce and 1 or 0)
end

local function unpack_share(text)
  local wants, weight, booked, granted, version, floor, floor_granted, held_since, waiting_since,
    is_behind, in_use, fill, is_restored, is_unconfirmed, incarnation, durable =
    cmsgpack.unpack(text)
  return {
    wants = wants, weight = weight, booked = booked, granted = granted, version = version,
    floor = floor, floor_granted = floor_granted, held_since = held_since,
    waiting_since = waiting_since, is_behind = is_behind == 1, in_use = in_use, fill = fill,
    is_restored = is_restored == 1, is_unconfirmed = is_unconfirmed == 1,
    incarnation = incarnation,
    -- What is durable of it: units, floor and incarnation.
    durable = durable,
  }
end

local function pack_share(share)
  return cmsgpack.pack(
    share.wants, share.weight, share.booked, share.granted, share.version, share.floor,
    share.floor_granted, share.held_since, share.waiting_since, share.is_behind and 1 or 0,
    share.in_use, share.fill, share.is_restored and 1 or 0, share.is_unconfirmed and 1 or 0,
    share.incarnation, share.durable)
end

-- Whether what is read is settled in this call, and so is needed whole.
local needs_whole = false

-- Have all shares of a limit at hand, and what is pending of it.
local function read_fields(limit, found)
  for place = 1, #found, 2 do
    local agent = string.match(found[place], '^@(.*)$')
    if found[place] == 'pending' then
      limit.pending = cmsgpack.unpack(found[place + 1])
    elseif agent and limit.shares[agent] == nil then
      limit.shares[agent] = unpack_share(found[place + 1])
    end
  end
  limit.is_whole = true
end

local function read_whole(limit)
  if not limit.is_whole then read_fields(limit, redis.call('HGETALL', limit.name)) end
end

local function find_whole_limit(key)
  local found = redis.call('HGETALL', PREFIX .. 'limit:' .. key)
  for place = 1, #found, 2 do
    if found[place] == 'limit' then
      limits[key] = unpack_limit(key, found[place + 1])
      read_fields(limits[key], found)
      return limits[key]
    end
  end
  limits[key] = false
  return false
end

-- A limit, or false; with *agent*, that one's share as well.
local function find_limit(key, agent)
  local limit = limits[key]
  if limit == false then return false end
  if limit == nil then
    if needs_whole then return find_whole_limit(key) end
    local found = redis.call('HMGET', PREFIX .. 'limit:' .. key, 'limit', '@' .. (agent or ''))
    if not found[1] then
      limits[key] = false
      return false
    end
    limit = unpack_limit(key, found[1])
    limits[key] = limit
    if agent then limit.shares[agent] = found[2] and unpack_share(found[2]) or false end
  elseif agent and limit.shares[agent] == nil and not limit.is_whole then
    local text = redis.call('HGET', limit.name, '@' .. agent)
    limit.shares[agent] = text and unpack_share(text) or false
  end
  return limit
end

local function is_rate(limit)
  return limit.count > 0
end

local function event_parts(limit)
  return multiply(big(limit.period), big(limit.units))
end

local function out(limit)
  return limit.unclaimed + limit.occupied
end

local function free_units(limit)
  return math.max(0, limit.units - out(limit))
end

-- What the pool has when all units are free and full.
local function most_pool(limit)
  return multiply(big(limit.units), event_parts(limit))
end

local function occupied(share)
  return math.max(share.booked, share.floor)
end

-- Whether there is nothing to remember of a share.
local function is_empty(share)
  return share.wants == 0 and share.granted == 0 and share.floor_granted == 0
    and occupied(share) == 0
end

-- Change what a share occupies; return by how many units that grew.
local function book(limit, agent, booked, floor)
  local share = limit.shares[agent]
  local before = occupied(share)
  share.booked = booked or share.booked
  share.floor = floor or share.floor
  local grown = occupied(share) - before
  limit.occupied = limit.occupied + grown
  limit.changed[agent] = true
  return grown
end

local NOTHING_HELD = {0, 0, 0}

local function add_share(limit, agent, share)
  share.durable = limit.gone[agent] or share.durable
  limit.gone[agent] = nil
  -- There may be a grant of an earlier share.
  share.is_unconfirmed = true
  limit.shares[agent] = share
  limit.changed[agent] = true
  limit.removed[agent] = nil
  redis.call('SADD', PREFIX .. 'keys:' .. agent, limit.key)
end

local function new_share()
  return {
    wants = 0, weight = 1, booked = 0, granted = 0, version = NO_VERSION, floor = 0,
    floor_granted = 0, held_since = now, waiting_since = now, is_behind = false, in_use = 0,
    fill = {}, is_restored = false, is_unconfirmed = false, incarnation = 0, durable = NOTHING_HELD,
  }
end

local function remove_share(limit, agent)
  local share = limit.shares[agent]
  if not share then return end
  limit.occupied = limit.occupied - occupied(share)
  if share.durable[1] > 0 or share.durable[2] > 0 then limit.gone[agent] = share.durable end
  limit.shares[agent] = false
  limit.changed[agent] = nil
  limit.removed[agent] = true
end

-- Add events to what the free units have; those without room pay what is owed.
local function add_events(limit, events)
  local whole = add(limit.pool, events)
  local room = multiply(big(free_units(limit)), event_parts(limit))
  limit.pool = least(whole, room)
  if #limit.owed > 0 and is_less(room, whole) then
    -- What was in the pool before and has no room now is with somebody.
    limit.owed = subtract_if_more(limit.owed, least(events, subtract(whole, room)))
  end
end

-- Let the free units fill, as slowly as the slowest clock would have it.
local function earn(limit)
  if is_rate(limit) then
    local span = math.max(0, now - limit.since) * 1000
    local earned = multiply(
      multiply(big(span - quotient(span, terms.drift)), big(free_units(limit))), big(limit.count))
    add_events(limit, earned)
  end
  limit.since = now
end

-- Sessions.

local function unpack_session(text)
  local incarnation, sequence, part, stage, speaks_until, rates_end, drained, floors_end,
    heard_at, server = cmsgpack.unpack(text)
  return {
    incarnation = incarnation, sequence = sequence, part = part, stage = stage,
    speaks_until = speaks_until, rates_end = rates_end, drained = drained,
    floors_end = floors_end, heard_at = heard_at, server = server,
  }
end

local function find_session(agent)
  if sessions[agent] == nil then
    local text = redis.call('HGET', PREFIX .. 'sessions', agent)
    sessions[agent] = text and unpack_session(text)
  end
  return sessions[agent]
end

-- Have the sessions of many agents at hand.
local function read_sessions(names)
  local agents = {}
  for _, name in ipairs(names) do
    if sessions[name] == nil then agents[#agents + 1] = name end
  end
  for first = 1, #agents, 1000 do
    local last = math.min(first + 999, #agents)
    local texts = redis.call('HMGET', PREFIX .. 'sessions', unpack(agents, first, last))
    for place, text in ipairs(texts) do
      sessions[agents[first + place - 1]] = text and unpack_session(text)
    end
  end
end

local function next_end(session)
  if session.stage == LIVE then return session.rates_end end
  if session.stage == RATES_OVER then return session.drained end
  return session.floors_end
end

local function put_session(agent, session)
  sessions[agent] = session
  redis.call('HSET', PREFIX .. 'sessions', agent, cmsgpack.pack(
    session.incarnation, session.sequence, session.part, session.stage, session.speaks_until,
    session.rates_end, session.drained, session.floors_end, session.heard_at, session.server))
  redis.call('ZADD', PREFIX .. 'ends', next_end(session), agent)
end

local function drop_session(agent)
  sessions[agent] = false
  redis.call('HDEL', PREFIX .. 'sessions', agent)
  redis.call('ZREM', PREFIX .. 'ends', agent)
  redis.call('DEL', PREFIX .. 'keys:' .. agent, PREFIX .. 'unconfirmed:' .. agent)
end

local function keys_of(agent)
  local keys = redis.call('SMEMBERS', PREFIX .. 'keys:' .. agent)
  table.sort(keys)
  return keys
end

-- Writing.

local function mark(key)
  dirty[key] = true
end

local function write_limit(limit)
  local fields = {'limit', pack_limit(limit)}
  for agent in pairs(limit.changed) do
    fields[#fields + 1] = '@' .. agent
    fields[#fields + 1] = pack_share(limit.shares[agent])
  end
  for first = 1, #fields, 1000 do
    redis.call('HSET', limit.name, unpack(fields, first, math.min(first + 999, #fields)))
  end
  for agent in pairs(limit.removed) do
    redis.call('HDEL', limit.name, '@' .. agent)
    redis.call('SREM', PREFIX .. 'keys:' .. agent, limit.key)
  end
end

local function write_dirty()
  for key in pairs(dirty) do redis.call('ZADD', PREFIX .. 'dirty', 0, key) end
  dirty = {}
end

local function write_shard()
  for _, limit in pairs(limits) do
    if limit then write_limit(limit) end
  end
  write_dirty()
  redis.call('HSET', SHARD .. ':shard', 'wall', wall, 'now', now, 'counter', counter)
end
