-- Baggage at the edge: a member of ours is read as sidecars read it, and removed in every spelling that some library
-- may take for ours.

local MEMBER_PREFIX = BAGGAGE_CONTRACT .. "-"

-- A key as a library may see it that decodes, trims or lowers keys.
local function spelled_out(key)
  return percent_decode((key:gsub("%+", " "))):gsub("[^%w!#%$&'%*%+%-%.%^_`|~]", ""):lower()
end

-- Whether the key of a member, or of what stands behind a space in it, is one of ours.
local function is_our_member(member)
  for key in member:gsub("[ \t]+", " "):gsub(" =", "="):gmatch("([^ =]*)=[^ ]*") do
    key = spelled_out(key)
    if key == BAGGAGE_CONTRACT or key:sub(1, #MEMBER_PREFIX) == MEMBER_PREFIX then
      return true
    end
  end
  return false
end

-- The contract's member as it is written, percent-encoded; nil if there is none.
local function contract_member(baggage)
  return member_of(baggage, BAGGAGE_CONTRACT)
end
