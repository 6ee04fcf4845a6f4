-- Promises: what has to be durable before grants are sent, by the rules of
-- policy_server/limits/promises.py. A promise is pending until it is confirmed, and goes out again
-- with all that is sent of its limit, whoever sends it: of several servers one may be gone before it
-- has made durable what another one counts on.

local function read_pending(limit)
  if limit.is_whole then return limit.pending end
  local text = redis.call('HGET', limit.name, 'pending')
  return text and cmsgpack.unpack(text)
end

local function describe_promise(limit, pending)
  if not pending then return nil end
  local holdings = {}
  for _, agent in each_by_name(pending.holdings) do
    local held = pending.holdings[agent]
    holdings[#holdings + 1] = {agent, held[1], held[2], held[3]}
  end
  return {
    limit.key, pending.number, limit.units, limit.count, limit.period,
    math.max(out(limit), limit.units), durable_owed(limit), holdings,
    limit.unclaimed == 0 and 1 or 0, limit.durable == '' and 1 or 0,
  }
end

-- A promise is durable: it need not be said again.
local function confirm(key, number)
  local name = PREFIX .. 'limit:' .. key
  local text = redis.call('HGET', name, 'pending')
  if text and cmsgpack.unpack(text).number == number then redis.call('HDEL', name, 'pending') end
end

-- Whether nobody has or wants any of a limit, and all that was used is earned again.
local function is_idle(limit, size)
  return size == 0 and limit.unclaimed == 0 and not is_less(limit.pool, most_pool(limit))
    and #limit.owed == 0
end

-- A limit as it has to be durable; empty: nothing of it has to be.
local function text_to_keep(limit, size)
  if is_idle(limit, size) then return '' end
  if #limit.owed == 0 then return spec_text(limit, 0) end
  local events = big_to_number(divide_up(limit.owed, event_parts(limit)))
  -- That it becomes less is not written down each time.
  return spec_text(limit, math.max(events, durable_owed(limit)))
end

-- Whether what is durable of a share says less than that it may have, or of another agent.
local function says_too_little(share, held)
  return share.booked > held[1] or share.floor ~= held[2]
    or (held[3] ~= share.incarnation and occupied(share) > 0)
end

-- Note what has changed since what is durable, beside what is pending; return all of it.
local function promise(limit, size)
  local changed, is_needed = {}, next(limit.gone) ~= nil
  for agent, share in pairs(limit.shares) do
    if share then
      local held = share.durable
      if says_too_little(share, held) then is_needed = true end
      if says_too_little(share, held) or share.booked < held[1] then
        changed[agent] = occupied(share) > 0 and {share.booked, share.floor, share.incarnation}
          or NOTHING_HELD
      end
    end
  end
  local durable = text_to_keep(limit, size)
  local pending = read_pending(limit)
  if not is_needed and durable == limit.durable then return describe_promise(limit, pending) end
  limit.durable = durable
  pending = pending or {holdings = {}}
  pending.number = redis.call('HINCRBY', SHARD .. ':shard', 'promises', 1)
  for agent in pairs(limit.gone) do pending.holdings[agent] = NOTHING_HELD end
  limit.gone = {}
  for agent, held in pairs(changed) do
    limit.shares[agent].durable = held
    limit.changed[agent] = true
    pending.holdings[agent] = held
  end
  limit.pending = pending
  redis.call('HSET', limit.name, 'pending', cmsgpack.pack(pending))
  return describe_promise(limit, pending)
end

-- How long until all is earned again if all units stay free, in microseconds, rounded up; of a span
-- longer than a day, that much.
local LONGEST_WAIT = 86400000000

local function full_after(limit)
  if not is_rate(limit) then return 0 end
  local earned = multiply(big(limit.units), big(limit.count))
  local missing = add(
    add(subtract(most_pool(limit), limit.pool), limit.owed), subtract(earned, big(1)))
  local whole = divide_by(divide_by(missing, limit.units), limit.count)
  if is_less(big(LONGEST_WAIT * 1000), whole) then return LONGEST_WAIT end
  local span = big_to_number(whole)
  return math.min(LONGEST_WAIT, math.ceil((span + quotient(span, terms.drift - 1) + 1) / 1000))
end

-- Forget a limit of which nothing is out; a rate when what was used is earned again.
local function forget_idle(limit, size)
  if size > 0 or limit.unclaimed > 0 then return end
  if redis.call('ZSCORE', PREFIX .. 'recovering', limit.key) then return end
  if not is_idle(limit, size) then
    redis.call('ZADD', PREFIX .. 'refilling', now + full_after(limit), limit.key)
    return
  end
  limits[limit.key] = false
  for agent in pairs(limit.removed) do
    redis.call('SREM', PREFIX .. 'keys:' .. agent, limit.key)
  end
  redis.call('DEL', limit.name)
  redis.call('ZREM', PREFIX .. 'limits', limit.key)
  if limit.is_scarce then redis.call('ZREM', PREFIX .. 'scarce', limit.key) end
end
