-- The clock of the book: microseconds that only go forward, and never faster than time does.
--
-- It goes by the wall clock of this server, the one clock that all who call share, as far as that
-- can be believed: a step back, or one that is longer than the pause between two calls should be,
-- counts as no time at all. So leases may last longer than meant, and never shorter.
local LONGEST_STEP = 2000000

local function read_wall_clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function read_clock(last_wall, last_time)
  local wall = read_wall_clock()
  local step = wall - last_wall
  if step < 0 or step > LONGEST_STEP then step = 0 end
  return wall, last_time + step
end
