-- The deal: who of those that are heard has how much of one limit from now on, by the rules of
-- policy_server/limits/deal.py.
local IDLE_PART = 10

local function divide_limit(live, size, units, hold)
  local alone = next(live)
  if size == 1 and alone then return {[alone] = live[alone].wants > 0 and units or 0} end
  local claimants = {}
  for agent, share in pairs(live) do
    claimants[#claimants + 1] = {
      name = agent, wants = share.wants, weight = share.weight,
      is_protected = share.granted > 0 and (now - share.held_since) * 1000 < hold,
      -- Who has some takes turns after those who have none.
      waiting_since = share.granted > 0 and now or share.waiting_since,
    }
  end
  return divide(units, claimants)
end

-- Lower the grants that others need, or in which much lies idle.
local function shrink(limit, live, targets, changed)
  local wanted = 0
  for agent, share in pairs(live) do
    wanted = wanted + math.max(0, targets[agent] - share.granted)
  end
  local is_short = wanted > free_units(limit) or out(limit) > limit.units
  local idle = math.max(1, quotient(limit.units, IDLE_PART))
  for agent, share in pairs(live) do
    local surplus = share.granted - targets[agent]
    if surplus > 0 and (is_short or surplus > idle or targets[agent] == 0) then
      share.granted = targets[agent]
      if share.granted == 0 then share.waiting_since = now end
      changed[agent] = true
    end
  end
end

-- Raise grants as far as units are free, whoever has waited longest first.
local function grow(limit, live, targets, changed)
  local fills, turns = {}, {}
  for agent in pairs(live) do turns[#turns + 1] = agent end
  table.sort(turns, function(one, other)
    local since, other_since = live[one].waiting_since, live[other].waiting_since
    if since ~= other_since then return since < other_since end
    return one < other
  end)
  for _, agent in ipairs(turns) do
    local share = live[agent]
    local free_before = free_units(limit)
    -- Where more is out than there is, some of it was given back or is not there: whose, is not
    -- known yet.
    local most = math.min(targets[agent], occupied(share) + limit.units - out(limit))
    if most > share.granted then
      if share.granted == 0 then share.held_since = now end
      share.granted = most
      local taken = book(limit, agent, math.max(share.booked, most), nil)
      local fill = {}
      if taken > 0 then
        fill = divide_by_small(multiply(limit.pool, big(taken)), free_before)
      end
      limit.pool = subtract(limit.pool, fill)
      fills[agent] = fill
      changed[agent] = true
    end
  end
  return fills
end

local function set_floors(limit, live, size, changed)
  for agent, share in pairs(live) do
    local floor = share.granted
    if size ~= 1 then floor = quotient(share.granted, 2) end
    if changed[agent] or share.floor_granted > floor then
      share.floor_granted = floor
      book(limit, agent, nil, math.max(share.floor, floor))
      changed[agent] = true
    end
  end
end

-- Change the grants of *live* shares, of which none is taken before it was held for *hold*; return
-- whose grants are new, and the events that come with those that grew, in parts.
local function deal_out(limit, live, elsewhere, size, hold)
  local targets = divide_limit(live, size, math.max(0, limit.units - elsewhere), hold)
  local changed = {}
  shrink(limit, live, targets, changed)
  -- Whoever has not heard of it is told that the limit itself has changed.
  for agent, share in pairs(live) do
    if share.version ~= NO_VERSION and share.version <= limit.last_old_version then
      changed[agent] = true
    end
  end
  local fills = grow(limit, live, targets, changed)
  set_floors(limit, live, size, changed)
  return changed, fills
end
