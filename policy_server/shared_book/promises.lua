-- Promises: what has to be durable before grants are sent, by the rules of
-- policy_server/limits/promises.py. A promise is pending until it is confirmed, and goes out again
-- with all that is sent of its limit, whoever sends it: of several servers one may be gone before it
-- has made durable what another one counts on.
local CEILING_PART, CEILING_LEAST = 10, 8

local function read_pending(limit)
  if limit.is_whole then return limit.pending end
  local text = redis.call('HGET', limit.name, 'pending')
  return text and cmsgpack.unpack(text)
end

local function describe_promise(limit, pending)
  if not pending then return nil end
  local floors = {}
  for _, agent in each_by_name(pending.floors) do
    floors[#floors + 1] = agent
    floors[#floors + 1] = pending.floors[agent]
  end
  return {
    limit.key, pending.number, limit.units, limit.count, limit.period, limit.ceiling, floors,
    limit.durable == '' and 1 or 0,
  }
end

-- A promise is durable: it need not be said again.
local function confirm(key, number)
  local name = PREFIX .. 'limit:' .. key
  local text = redis.call('HGET', name, 'pending')
  if text and cmsgpack.unpack(text).number == number then redis.call('HDEL', name, 'pending') end
end

-- Whether nobody has or wants any of a limit, and its units are as full as a new one's.
local function is_idle(limit, size)
  return size == 0 and limit.unclaimed == 0 and not is_less(limit.pool, most_pool(limit))
end

local function choose_ceiling(limit, floors, size)
  local present, out_now = limit.ceiling, out(limit)
  if is_idle(limit, size) then return 0 end
  local step = math.max(CEILING_LEAST, quotient(limit.units, CEILING_PART))
  if out_now > math.max(present, floors) or out_now + 2 * step < present then
    return math.max(out_now, math.min(out_now + step, limit.units))
  end
  -- Something has to be durable for as long as it is not idle.
  return floors == 0 and math.max(present, 1) or present
end

-- Note what has changed since what is durable, beside what is pending; return all of it.
local function promise(limit, size)
  local changed, floors = {}, 0
  for agent in pairs(limit.gone) do changed[agent] = 0 end
  limit.gone = {}
  for agent, share in pairs(limit.shares) do
    if share then
      floors = floors + share.floor
      if share.floor ~= share.durable_floor then
        share.durable_floor = share.floor
        limit.changed[agent] = true
        changed[agent] = share.floor
      end
    end
  end
  local ceiling = choose_ceiling(limit, floors, size)
  local durable = (floors > 0 or ceiling > 0) and spec_text(limit) or ''
  local is_old = ceiling == limit.ceiling and durable == limit.durable and next(changed) == nil
  local pending = read_pending(limit)
  if is_old then return describe_promise(limit, pending) end
  limit.ceiling, limit.durable = ceiling, durable
  pending = pending or {floors = {}}
  pending.number = redis.call('HINCRBY', SHARD .. ':shard', 'promises', 1)
  for agent, floor in pairs(changed) do pending.floors[agent] = floor end
  limit.pending = pending
  redis.call('HSET', limit.name, 'pending', cmsgpack.pack(pending))
  return describe_promise(limit, pending)
end

-- How long until the pool is full if all units stay free, in microseconds, rounded up.
local function full_after(limit)
  if not is_rate(limit) then return 0 end
  local earned = multiply(big(limit.units), big(limit.count))
  local missing = add(subtract(most_pool(limit), limit.pool), subtract(earned, big(1)))
  local span = big_to_number(divide_by(divide_by(missing, limit.units), limit.count))
  return math.ceil((span + quotient(span, terms.drift - 1) + 1) / 1000)
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
