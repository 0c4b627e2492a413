-- W3C baggage, in which apps with OpenTelemetry forward the contract: percent-encoded, compact JSON.
-- Keys are passed with their equals sign, such as "devroute=".

local MAX_BAGGAGE = 8192 -- bytes (W3C Baggage §3.3.2)
local MAX_MEMBERS = 64 -- likewise

-- JSON without the white space between its tokens.
local function compact(json)
  if not json:find("[ \t]") then
    return json
  end
  local kept, inside, escaped = {}, false, false
  for char in json:gmatch(".") do
    if inside then
      if escaped then
        escaped = false
      elseif char == "\\" then
        escaped = true
      elseif char == '"' then
        inside = false
      end
    elseif char == '"' then
      inside = true
    elseif char == " " or char == "\t" then
      char = ""
    end
    kept[#kept + 1] = char
  end
  return table.concat(kept)
end

-- A member's value as it is written, without its properties.
local function member_of(baggage, key)
  local at = 1
  while true do
    local first, last = baggage:find(key, at, true)
    if first == nil then
      return nil
    end
    if first == 1 or baggage:find("^[, \t]", first - 1) then
      return baggage:match("^[^,; \t]*", last + 1)
    end
    at = last + 1
  end
end

-- Baggage with one member set, in place of an earlier one of that key; all others stay byte for byte. The earlier
-- one goes even if `value` is nil or does not fit, since it would be believed. nil if nothing is left.
local function with_member(baggage, key, value)
  local kept, place = {}, nil
  for member in ((baggage or "") .. ","):gmatch("([^,]*),") do
    if (member:match("^[ \t]*([^=]*)=") or ""):gsub("[ \t]+$", "") .. "=" ~= key then
      kept[#kept + 1] = member
    elseif place == nil then
      place = #kept + 1
    end
  end
  if #kept == 1 and kept[1] == "" then
    kept = {}
  end
  local rest = kept[1] and table.concat(kept, ",")
  if value == nil or #kept >= MAX_MEMBERS then
    return rest
  end
  table.insert(kept, place or #kept + 1, key .. value)
  local joined = table.concat(kept, ",")
  return #joined <= MAX_BAGGAGE and joined or rest
end

local function set_baggage(headers, value)
  if value == nil then
    headers:remove("baggage")
  else
    headers:replace("baggage", value)
  end
end
