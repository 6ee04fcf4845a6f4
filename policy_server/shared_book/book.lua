-- The lease book, by the rules of policy_server/limits/book.py; what the rules are for stands there.
-- Times are microseconds here; events in parts are the same numbers as there.

-- Versions begin with the epoch.
local function last_version()
  return string.format(
    '%010.0f%010.0f', EPOCH + math.floor(counter / EPOCH_SPAN), counter % EPOCH_SPAN)
end

local function next_version()
  counter = counter + 1
  return last_version()
end

-- Limits.

-- Set what a limit is; what its free units have earned stays as many events, if there is room, and
-- what was used counts until it is earned again.
local function change_limit(limit, units, count, period)
  earn(limit)
  local was_rate, parts_before = is_rate(limit), event_parts(limit)
  local used = add(subtract(most_pool(limit), limit.pool), limit.owed)
  limit.units, limit.count, limit.period, limit.last_old_version = units, count, period, last_version()
  if was_rate and is_rate(limit) then
    limit.pool = least(
      divide_big(multiply(limit.pool, event_parts(limit)), parts_before),
      multiply(big(free_units(limit)), event_parts(limit)))
    limit.owed = subtract_if_more(
      divide_up(multiply(used, event_parts(limit)), parts_before),
      subtract(most_pool(limit), limit.pool))
  else
    limit.pool, limit.owed = {}, {}
  end
end

-- Whether all that a limit allows is no more than before: fewer events a period, or as many, and
-- no more units.
local function is_lower(limit, units, count, period)
  local before, after = limit.count * period, count * limit.period
  if is_rate(limit) and count > 0 and before ~= after then return after < before end
  return units <= limit.units
end

-- A server says what a limit is. If servers disagree, the lowest counts, for as long as one of them
-- goes on to say it.
local SAID_FOR = 60000000

local function set_limit(limit, server, units, count, period)
  local is_same = limit.units == units and limit.count == count and limit.period == period
  local is_theirs = limit.setter == server or now >= limit.set_at + SAID_FOR
  if not is_same and not is_theirs and not is_lower(limit, units, count, period) then return end
  limit.setter, limit.set_at = server, now
  if not is_same then
    change_limit(limit, units, count, period)
    mark(limit.key)
  end
end

local function add_limit(key, server, units, count, period)
  local limit = {
    key = key, name = PREFIX .. 'limit:' .. key,
    units = units, count = count, period = period, occupied = 0, pool = {}, owed = {}, since = now,
    unclaimed = 0, last_old_version = last_version(), is_scarce = false, gone = {}, durable = '',
    setter = server,
    set_at = now, shares = {}, removed = {}, changed = {}, is_whole = true,
  }
  -- What nothing is known of has not been used, or long ago: its units are full.
  limit.pool = most_pool(limit)
  limits[key] = limit
  redis.call('ZADD', PREFIX .. 'limits', 0, key)
  return limit
end

-- A limit as it is durable, with the events that it owes.
local function spec_text(limit, owed)
  return string.format('%.0f %.0f %.0f %.0f', limit.units, limit.count, limit.period, owed)
end

-- How many events are durable as owed.
local function durable_owed(limit)
  return tonumber(string.match(limit.durable, '%d+$') or 0)
end

-- The session of an agent that a predecessor lent something; its lease of then ends no later than
-- if it began at *since*.
local function restore_session(agent, incarnation, since)
  local session = find_session(agent) or {
    incarnation = 0, sequence = 0, part = 0, stage = LIVE, speaks_until = 0, rates_end = 0,
    drained = 0, floors_end = 0, heard_at = 0, server = '',
  }
  if incarnation > session.incarnation then
    session.incarnation, session.sequence, session.part = incarnation, 0, 0
  end
  session.rates_end = math.max(session.rates_end, since + terms.rates)
  session.drained = math.max(session.drained, since + terms.connections)
  session.floors_end = math.max(session.floors_end, since + terms.floors)
  put_session(agent, session)
  return session
end

-- Whether all that an agent had, but floors, is over beyond doubt.
local function is_lapsed(session, limit)
  return session.stage >= DRAINED or (session.stage == RATES_OVER and is_rate(limit))
end

-- Take over what a predecessor had promised, as of *since*: to whom how much, and at most *ceiling*
-- in all, where that is more; *used* are the events that may have been used and not earned again.
local function restore_limit(limit, used, ceiling, holdings, since)
  local owed = is_rate(limit) and math.max(0, used - limit.units) or 0
  limit.durable, limit.pool = spec_text(limit, owed), {}
  limit.owed = multiply(big(owed), event_parts(limit))
  for agent, holding in pairs(holdings) do
    local share = new_share()
    share.held_since, share.waiting_since, share.is_restored = 0, 0, true
    share.incarnation, share.floor_granted, share.durable = holding[3], holding[2], holding
    local session = restore_session(agent, holding[3], since)
    add_share(limit, agent, share)
    book(limit, agent, is_lapsed(session, limit) and 0 or holding[1], holding[2])
  end
  limit.unclaimed = math.max(0, ceiling - limit.occupied)
  local span = is_rate(limit) and terms.rates or terms.connections
  redis.call('ZADD', PREFIX .. 'recovering', since + span, limit.key)
end

-- Taking in.

local function lower(limit, agent, share, demand)
  local booked = math.max(0, demand.enforced)
  share.granted = math.min(share.granted, booked)
  local freed = -book(limit, agent, booked, share.floor_granted)
  if is_rate(limit) and freed > 0 then
    add_events(limit, least(demand.returned, multiply(big(freed), event_parts(limit))))
  end
end

-- An agent has more than we know of.
local function take_claim(limit, agent, share, demand)
  local has_confirmed = share.version ~= NO_VERSION and share.version == demand.version
  if not has_confirmed and limit.unclaimed == 0 then
    -- It was lent no more, so this was said before it gave something back, or it took what nobody
    -- lent it. If it says so once it has confirmed a grant of ours, it has.
    if share.version == NO_VERSION then share.version = next_version() end
    return
  end
  local grown = book(limit, agent, demand.enforced, nil)
  if demand.version >= share.version and demand.is_proven then
    share.version, share.fill = demand.version, {}
    share.granted = math.min(demand.granted, demand.enforced)
  end
  -- Whose claim shows nothing is told what it has.
  if share.version == NO_VERSION then share.version = next_version() end
  limit.unclaimed = math.max(0, limit.unclaimed - math.max(0, grown))
end

-- An agent says for the first time what it has of what a predecessor lent it.
local function take_over(limit, agent, share, demand)
  share.granted = math.max(0, math.min(demand.enforced, share.booked))
  if demand.enforced > share.booked then take_claim(limit, agent, share, demand) end
  -- More may be under way to it from the predecessor. Once it names this version, nothing is; and it
  -- may not have heard what the limit is now.
  share.is_restored, share.version, share.is_behind = false, next_version(), true
end

local function confirm_grant(agent, key, share)
  if share.is_unconfirmed then
    share.is_unconfirmed = false
    redis.call('ZREM', PREFIX .. 'unconfirmed:' .. agent, key)
  end
end

-- Take in what an agent says of one limit; false if the limit is not known here.
local function take(agent, demand)
  local limit = find_limit(demand.key, agent)
  if not limit then return false end
  earn(limit)
  local share = limit.shares[agent]
  if not share then
    -- Only what nobody has or wants is waited for.
    redis.call('ZREM', PREFIX .. 'refilling', demand.key)
    share = new_share()
    add_share(limit, agent, share)
  end
  share.weight, share.in_use = demand.weight, demand.in_use
  share.incarnation = find_session(agent).incarnation
  if demand.wants > 0 and share.wants == 0 then share.waiting_since = now end
  share.wants = math.max(0, math.min(demand.wants, limit.units))
  if share.is_restored then
    take_over(limit, agent, share, demand)
  else
    if demand.enforced > share.booked then
      take_claim(limit, agent, share, demand)
    elseif demand.version == share.version then
      lower(limit, agent, share, demand)
    end
    share.is_behind = demand.version < share.version
  end
  if not share.is_behind then confirm_grant(agent, demand.key, share) end
  limit.changed[agent] = true
  if is_empty(share) then
    remove_share(limit, agent)
    confirm_grant(agent, demand.key, share)
  end
  mark(demand.key)
  return true
end

-- Have grants sent again that seem to be lost, of at most so many.
local MOST_REPEATED = 50

local function repeat_grants(agent)
  local name = PREFIX .. 'unconfirmed:' .. agent
  local lost = redis.call(
    'ZRANGEBYSCORE', name, '-inf', now - terms.repeat_after, 'LIMIT', 0, MOST_REPEATED)
  for _, key in ipairs(lost) do
    local limit = find_limit(key, agent)
    local share = limit and limit.shares[agent]
    if share then
      share.is_behind = true
      limit.changed[agent] = true
      mark(key)
    else
      redis.call('ZREM', name, key)
    end
  end
end

-- A start that was released is not heard for so long.
local RELEASED_FOR = 60000000

local function note_release(agent, incarnation)
  local name, until_when = PREFIX .. 'released:' .. agent, now + RELEASED_FOR
  redis.call('SET', name, cmsgpack.pack(incarnation, until_when), 'PX', RELEASED_FOR / 1000)
end

local function is_released(agent, incarnation)
  local text = redis.call('GET', PREFIX .. 'released:' .. agent)
  if not text then return false end
  local released, until_when = cmsgpack.unpack(text)
  return incarnation <= released and now < until_when
end

local function free(agent)
  for _, key in ipairs(keys_of(agent)) do
    local limit = find_limit(key, agent)
    if limit then
      -- Before units come back: they have earned nothing here yet.
      earn(limit)
      remove_share(limit, agent)
      mark(key)
    end
  end
  redis.call('DEL', PREFIX .. 'unconfirmed:' .. agent)
end

-- What ends by itself.

local function end_share(agent, session, key)
  local limit = find_limit(key, agent)
  local share = limit and limit.shares[agent]
  if not share then
    redis.call('SREM', PREFIX .. 'keys:' .. agent, key)
    return
  end
  if session.stage == RATES_OVER and not is_rate(limit) then return end
  earn(limit)
  share.granted, share.wants, share.fill = 0, 0, {}
  book(limit, agent, 0, nil)
  mark(key)
  if share.floor == 0 or session.stage == FLOORS_OVER then remove_share(limit, agent) end
end

-- Free what the session's lease held, as far as that is over beyond doubt.
local function end_overdue(agent, session)
  while session.stage ~= FLOORS_OVER and now >= next_end(session) do
    session.stage = session.stage + 1
    for _, key in ipairs(keys_of(agent)) do end_share(agent, session, key) end
  end
end

local function each_by_name(set)
  local names = {}
  for name in pairs(set) do names[#names + 1] = name end
  table.sort(names)
  return ipairs(names)
end

-- What nobody has said to have by now: if its agent is heard, but never of this, it is told.
local function end_recovery(key)
  local limit = find_limit(key)
  if limit then
    earn(limit)
    limit.unclaimed = 0
    read_whole(limit)
    for _, agent in each_by_name(limit.shares) do
      local share = limit.shares[agent]
      if share and share.is_restored then
        share.is_restored, share.version = false, next_version()
        share.is_behind, share.is_unconfirmed = true, true
        limit.changed[agent] = true
        redis.call('ZADD', PREFIX .. 'unconfirmed:' .. agent, now - terms.repeat_after, key)
      end
    end
  end
  redis.call('ZREM', PREFIX .. 'recovering', key)
  mark(key)
end

-- End what is over, of at most so many agents; true if there is more.
local MOST_ENDS = 50

local function end_what_is_over()
  local over = redis.call(
    'ZRANGEBYSCORE', PREFIX .. 'ends', '-inf', now, 'LIMIT', 0, MOST_ENDS + 1)
  for place = 1, math.min(#over, MOST_ENDS) do
    local agent = over[place]
    local session = find_session(agent)
    end_overdue(agent, session)
    if session.stage == FLOORS_OVER then
      drop_session(agent)
    else
      put_session(agent, session)
    end
  end
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', PREFIX .. 'recovering', '-inf', now)) do
    end_recovery(key)
  end
  return #over > MOST_ENDS
end

-- Giving out.

local function is_live(session)
  return session and session.incarnation > 0 and now < session.speaks_until
end

-- How long a scarce unit stays, in nanoseconds: of a rate, until it has earned an event.
local LONGEST_HOLD = 4000000000000000

local function hold_ns(limit)
  if not is_rate(limit) then return terms.hold_connection * 1000 end
  local earning = big_to_number(divide_by(event_parts(limit), limit.count))
  return math.min(LONGEST_HOLD, math.max(terms.hold_rate * 1000, earning))
end

local function note_scarcity(limit, live, hold)
  local is_waiting, first_end = false, nil
  for _, share in pairs(live) do
    if share.wants > share.granted and share.granted == 0 then is_waiting = true end
    if share.granted > 0 then
      first_end = math.min(
        first_end or math.huge, (share.held_since - now) * 1000 + hold)
    end
  end
  if is_waiting then
    local wait = math.max(first_end or 0, 0) + quotient(hold, 10) + 1
    local at = now + math.ceil(wait / 1000)
    redis.call('ZADD', PREFIX .. 'scarce', at, limit.key)
  elseif limit.is_scarce then
    redis.call('ZREM', PREFIX .. 'scarce', limit.key)
  end
  limit.is_scarce = is_waiting
end

local function describe_grant(limit, agent, session)
  local share = limit.shares[agent]
  share.is_behind = false
  limit.changed[agent] = true
  return {
    agent, session.server, session.incarnation, session.sequence, limit.key, limit.units,
    limit.count, limit.period, share.version, share.granted, share.floor_granted,
    -- It is applied once, however often it is sent.
    big_to_text(share.fill),
    -- For how long the lease lasts at least.
    session.rates_end - now,
  }
end

-- Who is asking for something, and what others hold.
local function read_live(limit)
  read_whole(limit)
  local names, live, elsewhere = {}, {}, limit.unclaimed
  for agent, share in pairs(limit.shares) do
    if share then names[#names + 1] = agent end
  end
  read_sessions(names)
  for _, agent in ipairs(names) do
    -- Who may still show more is not told to have less.
    if not limit.shares[agent].is_restored and is_live(find_session(agent)) then
      live[agent] = limit.shares[agent]
    else
      elsewhere = elsewhere + occupied(limit.shares[agent])
    end
  end
  return live, elsewhere, #names
end

-- Decide who has what of a limit from now on; return the grants, and how many shares it has.
local function settle_limit(limit)
  local live, elsewhere, size = read_live(limit)
  local hold = hold_ns(limit)
  local changed, fills = deal_out(limit, live, elsewhere, size, hold)
  note_scarcity(limit, live, hold)
  for _, agent in each_by_name(changed) do
    live[agent].version = next_version()
    live[agent].fill = fills[agent] or {}
    limit.changed[agent] = true
  end
  for agent, share in pairs(live) do
    if share.is_behind then changed[agent] = true end
  end
  local grants = {}
  for _, agent in each_by_name(changed) do
    redis.call('ZADD', PREFIX .. 'unconfirmed:' .. agent, now, limit.key)
    live[agent].is_unconfirmed = true
    grants[#grants + 1] = describe_grant(limit, agent, find_session(agent))
  end
  return grants, size
end

-- When something ends by itself; -1: nothing does.
local function next_time()
  local first = -1
  for _, part in ipairs({'ends', 'scarce', 'recovering', 'refilling'}) do
    local found = redis.call('ZRANGE', PREFIX .. part, 0, 0, 'WITHSCORES')
    if found[2] then
      local at = tonumber(found[2])
      if first < 0 or at < first then first = at end
    end
  end
  return first
end
