-- Baggage at the edge: a member of ours is removed in every spelling that some library may take for ours.

local MEMBER_PREFIX = BAGGAGE_CONTRACT .. "-"
local SHORTEST_MEMBER = #BAGGAGE_CONTRACT + 1

-- A key as a library may see it that decodes, trims or lowers keys.
local function spelled_out(key)
  return percent_decode((key:gsub("%+", " "))):gsub("[^%w!#%$&'%*%+%-%.%^_`|~]", ""):lower()
end

-- Whether the key of a member, or of what stands behind a space in it, is one of ours.
local function is_our_member(member)
  if #member < SHORTEST_MEMBER then
    return false -- at once, since baggage may consist of commas
  end
  for piece in member:gsub("[ \t]+", " "):gsub(" =", "="):gmatch("[^ ]+") do
    local key = piece:find("=", 1, true) and spelled_out(piece:match("^[^=]*")) or ""
    if key == BAGGAGE_CONTRACT or key:sub(1, #MEMBER_PREFIX) == MEMBER_PREFIX then
      return true
    end
  end
  return false
end
