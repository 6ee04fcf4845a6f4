-- Shares: who is to have how much of a limit, by the rules of policy_server/limits/shares.py.
local HEADROOM_PART = 5

-- Split by weight among those, from *first* on, who all want more than their part.
local function split(units, weight, claimants, first, given)
  local rest, turns = units, {}
  for place = first, #claimants do
    local one = claimants[place]
    given[one.name] = quotient(units * one.weight, weight)
    rest = rest - given[one.name]
    turns[#turns + 1] = one
  end
  table.sort(turns, function(one, other)
    if one.is_protected ~= other.is_protected then return one.is_protected end
    if one.waiting_since ~= other.waiting_since then
      return one.waiting_since < other.waiting_since
    end
    return one.name < other.name
  end)
  for _, one in ipairs(turns) do
    if rest <= 0 then break end
    if given[one.name] < one.wants then
      given[one.name] = given[one.name] + 1
      rest = rest - 1
    end
  end
end

local function divide_fairly(units, claimants)
  local given, left, weight, ordered = {}, units, 0, {}
  for place, one in ipairs(claimants) do
    weight = weight + one.weight
    ordered[place] = one
    one.rank = one.wants / one.weight
  end
  -- Who wants least for their weight is satisfied first; from the first who can't be, nobody is.
  table.sort(ordered, function(one, other)
    if one.rank ~= other.rank then return one.rank < other.rank end
    return one.name < other.name
  end)
  for place, one in ipairs(ordered) do
    if one.wants * weight > left * one.weight then
      split(left, weight, ordered, place, given)
      break
    end
    given[one.name] = one.wants
    left = left - one.wants
    weight = weight - one.weight
  end
  return given
end

local function with_headroom(surplus, claimants)
  local extra, sum, wanting = {}, 0, {}
  for _, one in ipairs(claimants) do
    if one.wants > 0 then
      extra[one.name] = math.max(1, quotient(one.wants, HEADROOM_PART))
      sum = sum + extra[one.name]
      wanting[#wanting + 1] = {
        name = one.name, wants = extra[one.name], weight = one.weight, is_protected = false,
        waiting_since = one.waiting_since,
      }
    end
  end
  if sum > surplus then extra = divide_fairly(surplus, wanting) end
  local given = {}
  for _, one in ipairs(claimants) do given[one.name] = one.wants + (extra[one.name] or 0) end
  return given
end

-- Divide *units*; return what each is to have, by name.
local function divide(units, claimants)
  local wanted = 0
  for _, one in ipairs(claimants) do wanted = wanted + one.wants end
  if wanted <= units then return with_headroom(units - wanted, claimants) end
  return divide_fairly(units, claimants)
end
