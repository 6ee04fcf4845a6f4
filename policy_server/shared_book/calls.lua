-- What can be asked of a shard: ARGV[1] names it, ARGV[2] is the epoch. The answer begins with "ok",
-- or with why the shard can't be used: "lost" (rolled back, emptied, or not begun), "fenced" (a newer
-- epoch has begun, which is said) or "replica".
local MOST_LIMITS, MOST_SHARES = 100, 2000

local function argument(place)
  return tonumber(ARGV[place])
end

-- How many limits there are, how many of them are scarce, and of how many a predecessor's promises
-- are open.
local function counts()
  local numbers = {}
  for place, part in ipairs({'limits', 'scarce', 'recovering'}) do
    numbers[place] = redis.call('ZCARD', PREFIX .. part)
  end
  return numbers
end

local calls = {}

-- Begin an epoch: what was before is forgotten. ARGV: terms.
function calls.begin()
  local fields = redis.call('HMGET', SHARD .. ':shard', 'epoch', 'wall', 'now')
  if fields[1] and tonumber(fields[1]) >= EPOCH then return {'fenced', tonumber(fields[1])} end
  local start = read_wall_clock()
  redis.call('DEL', SHARD .. ':shard')
  redis.call(
    'HSET', SHARD .. ':shard', 'epoch', ARGV[2], 'identity', read_identity(), 'wall', start,
    'now', start, 'counter', 0, 'promises', 0, 'began', start, 'terms', ARGV[3])
  return {'ok'}
end

-- Take in a report: a sign of life, and demands; return 1 and the keys that are not known here, or 0
-- if it is too late, comes twice or is of an agent long gone.
local function receive(agent, incarnation, sequence, part, server, demands)
  if is_released(agent, incarnation) then return {0, {}} end
  local session = find_session(agent)
  if session and incarnation < session.incarnation then return {0, {}} end
  if not session or incarnation > session.incarnation then
    -- The one before is gone, and all that it had: a host runs an agent once.
    if session and session.incarnation > 0 then free(agent) end
    session = {incarnation = incarnation}
  elseif sequence < session.sequence
    or (sequence == session.sequence and part <= session.part) then
    return {0, {}}
  else
    end_overdue(agent, session)
    -- What changed while it was silent it has not been told.
    if now >= session.speaks_until then
      for _, key in ipairs(keys_of(agent)) do mark(key) end
    end
  end
  session.sequence, session.part, session.server = sequence, part, server
  session.stage, session.heard_at = LIVE, now
  session.speaks_until = now + terms.session
  session.rates_end = now + terms.rates
  session.drained = now + terms.connections
  session.floors_end = now + terms.floors
  put_session(agent, session)
  local unknown = {}
  for _, demand in ipairs(demands) do
    if not take(agent, demand) then unknown[#unknown + 1] = demand.key end
  end
  repeat_grants(agent)
  return {1, unknown}
end

-- Decide what follows from what changed, and from time alone; of at most so many limits.
local function settle()
  local has_more = end_what_is_over()
  for _, part in ipairs({'scarce', 'refilling'}) do
    for _, key in ipairs(redis.call('ZRANGEBYSCORE', PREFIX .. part, '-inf', now)) do
      redis.call('ZREM', PREFIX .. part, key)
      mark(key)
    end
  end
  -- In one order, those of earlier calls and of this one; what is too much stays for the next.
  local earlier = {}
  for _, key in ipairs(redis.call('ZRANGE', PREFIX .. 'dirty', 0, MOST_LIMITS)) do
    earlier[key] = true
    mark(key)
  end
  local keys = {}
  for key in pairs(dirty) do keys[#keys + 1] = key end
  table.sort(keys)
  local promises, grants, size = {}, {}, 0
  for place, key in ipairs(keys) do
    if place > MOST_LIMITS or size >= MOST_SHARES then
      has_more = true
      break
    end
    dirty[key] = nil
    if earlier[key] then redis.call('ZREM', PREFIX .. 'dirty', key) end
    local limit = find_limit(key)
    if limit then
      earn(limit)
      local told, count = settle_limit(limit)
      size = size + count
      for _, grant in ipairs(told) do grants[#grants + 1] = grant end
      promises[#promises + 1] = promise(limit, count)
      forget_idle(limit, count)
    end
  end
  return promises, grants, has_more and 1 or 0
end

-- Take in what is durable by now, what limits are, and reports; then settle. ARGV: the server that
-- calls; 1 to settle; how many promises, and key and number of each; how many limits, and key, units,
-- count and period of each; then of each report agent, incarnation, sequence, part, how many demands
-- and nine for each of these.
function calls.sync()
  local server, place = ARGV[3], 6
  for _ = 1, argument(5) do
    confirm(ARGV[place], argument(place + 1))
    place = place + 2
  end
  place = place + 1
  for _ = 1, argument(place - 1) do
    local limit = find_limit(ARGV[place])
    if limit then
      set_limit(limit, server, argument(place + 1), argument(place + 2), argument(place + 3))
    end
    place = place + 4
  end
  needs_whole = ARGV[4] == '1'
  local taken = {}
  while place <= #ARGV do
    local head, demands = place, {}
    place = place + 5
    for number = 1, argument(head + 4) do
      demands[number] = {
        key = ARGV[place], wants = argument(place + 1), enforced = argument(place + 2),
        version = ARGV[place + 3], weight = argument(place + 4),
        returned = big_from_text(ARGV[place + 5]), granted = argument(place + 6),
        is_proven = ARGV[place + 7] == '1', in_use = argument(place + 8),
      }
      place = place + 9
    end
    taken[#taken + 1] = receive(
      ARGV[head], argument(head + 1), argument(head + 2), argument(head + 3), server, demands)
  end
  local promises, grants, has_more = {}, {}, 0
  if ARGV[4] == '1' then promises, grants, has_more = settle() end
  write_shard()
  return {'ok', taken, promises, grants, has_more, now, next_time(), counts()}
end

-- An agent has stopped in good order: all that it had is free at once. ARGV: agent, incarnation.
function calls.release()
  local agent, session = ARGV[3], find_session(ARGV[3])
  if session and session.incarnation <= argument(4) then
    free(agent)
    drop_session(agent)
    note_release(agent, session.incarnation)
    write_shard()
  end
  return {'ok'}
end

-- Make a limit known. ARGV: the server that calls, key, units, count, period; if it was known before, also "before" (in an
-- earlier epoch) or "now" (in this one, and has been lost), how many events may have been used, its
-- ceiling, for how many microseconds a predecessor may go on unseen, then agent, units, floor and
-- incarnation of each holding.
function calls.add()
  local key = ARGV[4]
  if find_limit(key) then return {'ok', 0} end
  local limit = add_limit(key, ARGV[3], argument(5), argument(6), argument(7))
  if ARGV[8] then
    local holdings, since = {}, now
    if ARGV[8] == 'before' then
      since = tonumber(redis.call('HGET', SHARD .. ':shard', 'began'))
    end
    for place = 12, #ARGV, 4 do
      holdings[ARGV[place]] = {argument(place + 1), argument(place + 2), argument(place + 3)}
    end
    restore_limit(limit, argument(9), argument(10), holdings, since + argument(11))
  end
  write_shard()
  return {'ok', 1}
end

-- Grants that an agent has not confirmed, for one that connects anew. ARGV: agent, and the server
-- that it connects to.
function calls.unconfirmed()
  local agent, session = ARGV[3], find_session(ARGV[3])
  local promises, grants = {}, {}
  if session then
    session.server = ARGV[4]
    put_session(agent, session)
    local keys = redis.call('ZRANGEBYSCORE', PREFIX .. 'unconfirmed:' .. agent, '-inf', 'inf')
    for _, key in ipairs(keys) do
      local limit = find_limit(key, agent)
      local share = limit and limit.shares[agent]
      if share then
        grants[#grants + 1] = describe_grant(limit, agent, session)
        promises[#promises + 1] = describe_promise(limit, read_pending(limit))
      end
    end
    write_shard()
  end
  return {'ok', {}, promises, grants, 0, now, next_time(), counts()}
end

-- Whether the shard is there, and in this epoch; for how long it has been, its terms, and how many
-- signs of life the database is known to have had.
function calls.look()
  local fields = redis.call('HMGET', SHARD .. ':shard', 'began', 'terms', 'renewals')
  return {'ok', now - tonumber(fields[1]), fields[2], tonumber(fields[3] or 0)}
end

-- Note how many signs of life the database has had. ARGV: how many.
function calls.note()
  local known = tonumber(redis.call('HGET', SHARD .. ':shard', 'renewals') or 0)
  if argument(3) > known then redis.call('HSET', SHARD .. ':shard', 'renewals', ARGV[3]) end
  return {'ok'}
end

-- Whether an agent has a session, and whether it has reported so lately that its leases hold, or may
-- not have had the time to since the book was begun. ARGV: agent.
function calls.session()
  local session = find_session(ARGV[3])
  if not session then return {'ok', 0, 0} end
  local heard_until = session.speaks_until
  if heard_until == 0 then
    heard_until = tonumber(redis.call('HGET', SHARD .. ':shard', 'began')) + terms.session
  end
  return {'ok', 1, now < heard_until and 1 or 0}
end

local function describe_limit(limit)
  read_whole(limit)
  local in_use, wanted, waiting, holders, unclaimed = 0, 0, 0, 0, limit.unclaimed
  for _, share in pairs(limit.shares) do
    if share then
      in_use, wanted, holders = in_use + share.in_use, wanted + share.wants, holders + 1
      if share.wants > 0 and share.granted == 0 then waiting = waiting + 1 end
      if share.is_restored then unclaimed = unclaimed + occupied(share) end
    end
  end
  return {
    limit.key, limit.units, limit.count, limit.period, out(limit), in_use, wanted, waiting, holders,
    unclaimed,
  }
end

-- Limits in order. ARGV: the key after which to begin, or empty; how many.
function calls.list()
  local first = ARGV[3] == '' and '-' or '(' .. ARGV[3]
  local keys = redis.call('ZRANGEBYLEX', PREFIX .. 'limits', first, '+', 'LIMIT', 0, ARGV[4])
  local found = {}
  for _, key in ipairs(keys) do
    local limit = find_limit(key)
    if limit then found[#found + 1] = describe_limit(limit) end
  end
  return {'ok', found}
end

-- One limit and who has it, those with most units first. ARGV: key, how many holders.
function calls.show()
  local limit = find_limit(ARGV[3])
  if not limit then return {'ok'} end
  local description, names, holders = describe_limit(limit), {}, {}
  for agent, share in pairs(limit.shares) do
    if share then names[#names + 1] = agent end
  end
  read_sessions(names)
  table.sort(names, function(one, other)
    local units, other_units = limit.shares[one].granted, limit.shares[other].granted
    if units ~= other_units then return units > other_units end
    return one < other
  end)
  for place = 1, math.min(#names, argument(4)) do
    local agent = names[place]
    local share, session = limit.shares[agent], find_session(agent)
    holders[place] = {
      agent, share.granted, share.booked, share.floor, share.in_use, share.wants,
      share.granted > 0 and now - share.held_since or -1,
      share.wants > 0 and share.granted == 0 and now - share.waiting_since or -1,
      session and session.speaks_until > 0 and now - session.heard_at or -1,
    }
  end
  return {'ok', description, holders}
end

if calls[ARGV[1]] ~= calls.begin then
  local reason, epoch = open_shard()
  if reason then return {reason, epoch} end
end
return calls[ARGV[1]]()
