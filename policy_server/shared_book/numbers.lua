-- Whole numbers of any size, never negative. Redis counts in doubles, which are exact up to 2^53;
-- the events of a rate, in parts, go beyond. A number is a list of digits to the base of 10^7, the
-- lowest first.
local BASE = 10000000

local function big(number)
  local digits = {}
  while number > 0 do
    local low = number % BASE
    digits[#digits + 1] = low
    number = (number - low) / BASE
  end
  return digits
end

local function big_from_text(text)
  local digits = {}
  for last = #text, 1, -7 do
    digits[#digits + 1] = tonumber(string.sub(text, math.max(1, last - 6), last))
  end
  while #digits > 0 and digits[#digits] == 0 do digits[#digits] = nil end
  return digits
end

local function big_to_text(number)
  if #number == 0 then return '0' end
  local texts = {string.format('%d', number[#number])}
  for place = #number - 1, 1, -1 do texts[#texts + 1] = string.format('%07d', number[place]) end
  return table.concat(texts)
end

-- As a double, which is exact below 2^53.
local function big_to_number(number)
  local sum = 0
  for place = #number, 1, -1 do sum = sum * BASE + number[place] end
  return sum
end

local function trimmed(digits)
  while #digits > 0 and digits[#digits] == 0 do digits[#digits] = nil end
  return digits
end

local function is_less(one, other)
  if #one ~= #other then return #one < #other end
  for place = #one, 1, -1 do
    if one[place] ~= other[place] then return one[place] < other[place] end
  end
  return false
end

local function least(one, other)
  if is_less(other, one) then return other end
  return one
end

local function add(one, other)
  local sum, carry = {}, 0
  for place = 1, math.max(#one, #other) do
    local digit = (one[place] or 0) + (other[place] or 0) + carry
    carry = digit >= BASE and 1 or 0
    sum[place] = digit - carry * BASE
  end
  if carry > 0 then sum[#sum + 1] = carry end
  return sum
end

-- What is left of *one* without *other*, which is no greater.
local function subtract(one, other)
  local rest, borrowed = {}, 0
  for place = 1, #one do
    local digit = one[place] - (other[place] or 0) - borrowed
    borrowed = digit < 0 and 1 or 0
    rest[place] = digit + borrowed * BASE
  end
  return trimmed(rest)
end

-- The same, and nothing if *other* is greater.
local function subtract_if_more(one, other)
  return is_less(other, one) and subtract(one, other) or {}
end

local function multiply(one, other)
  local product = {}
  for place = 1, #one do
    local carry = 0
    for turn = 1, #other do
      local digit = (product[place + turn - 1] or 0) + one[place] * other[turn] + carry
      local low = digit % BASE
      product[place + turn - 1] = low
      carry = (digit - low) / BASE
    end
    product[place + #other] = carry
  end
  return trimmed(product)
end

-- *one* divided by a number below 9 * 10^8, rounded down.
local function divide_by_small(one, divisor)
  local quotient, rest = {}, 0
  for place = #one, 1, -1 do
    local digit = rest * BASE + one[place]
    rest = digit % divisor
    quotient[place] = (digit - rest) / divisor
  end
  return trimmed(quotient)
end

-- *one* divided by *other*, rounded down; rarely needed.
local function divide_big(one, other)
  local doubles = {}
  local double, times = other, {1}
  while not is_less(one, double) do
    doubles[#doubles + 1] = {double, times}
    double, times = add(double, double), add(times, times)
  end
  local quotient = {}
  for place = #doubles, 1, -1 do
    if not is_less(one, doubles[place][1]) then
      one = subtract(one, doubles[place][1])
      quotient = add(quotient, doubles[place][2])
    end
  end
  return quotient
end

-- *one* divided by *other*, rounded up.
local function divide_up(one, other)
  return divide_big(add(one, subtract(other, big(1))), other)
end

local function divide_by(one, divisor)
  if divisor < 900000000 then return divide_by_small(one, divisor) end
  return divide_big(one, big(divisor))
end

-- Small numbers divided, rounded down; exact, as the rest of a division is.
local function quotient(one, divisor)
  return (one - one % divisor) / divisor
end
