-- W3C baggage, in which apps with OpenTelemetry forward the contract: percent-encoded, compact JSON.
--
-- The one reader of it (devroute/http/baggage.py is its twin). Members are separated by commas; a member is a key, "=",
-- a value, and properties behind ";". White space (space, tab) around each of them does not count. Keys are compared byte
-- for byte; of members with the same key the last counts, as in OpenTelemetry. Linear in the length of the baggage.

local MAX_BAGGAGE = 8192 -- bytes that are written (W3C Baggage §3.3.2)
local MAX_MEMBERS = 64 -- likewise
local COMMA, SPACE, TAB = 44, 32, 9

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

-- Longer baggage is passed on as it is, and not read.
local function is_readable(baggage)
  return #baggage <= MAX_READ_BAGGAGE
end

-- The next member of a key from `at` on: where it begins, behind its comma, and where its value does; nil if there is
-- none. `sign` is the pattern of what stands between key and value, by default that of baggage. White space is scanned
-- once on either side of each place where the key occurs, hence in linear time.
local function next_member(list, key, at, sign)
  while true do
    local first, last = list:find(key, at, true)
    if first == nil then
      return nil
    end
    local before = first - 1
    local byte = list:byte(before)
    while byte == SPACE or byte == TAB do
      before = before - 1
      byte = list:byte(before)
    end
    local _, equals = list:find(sign or "^[ \t]*=", last + 1)
    if equals ~= nil and (byte == nil or byte == COMMA) then
      return before + 1, equals + 1
    end
    at = last + 1
  end
end

-- A member's value as it is written, without its properties; nil if there is none.
local function member_of(baggage, key)
  if not is_readable(baggage) then
    return nil
  end
  local value
  local _, at = next_member(baggage, key, 1)
  while at ~= nil do
    value = at
    _, at = next_member(baggage, key, at)
  end
  return value and trimmed(baggage:sub(value, (baggage:find("[,;]", value) or 0) - 1))
end

-- Whether a list with one more member has no more than `most`.
local function has_room(list, most)
  local members, at = 1, 0
  repeat
    at = list:find(",", at + 1, true)
    members = members + 1
  until at == nil or members > most
  return members <= most
end

-- The members of other keys, byte for byte, as a list of texts; and the place of the first of `key` among them, nil if
-- there is none.
local function others_of(list, key, sign)
  local kept, place, behind = {}, nil, 1
  local first, at = next_member(list, key, behind, sign)
  while first ~= nil do
    if first > behind then
      kept[#kept + 1] = list:sub(behind, first - 2)
    end
    place = place or #kept + 1
    behind = list:find(",", at, true)
    first = nil
    if behind ~= nil then
      behind = behind + 1
      first, at = next_member(list, key, behind, sign)
    end
  end
  if behind ~= nil and list ~= "" then
    kept[#kept + 1] = list:sub(behind)
  end
  return kept, place
end

-- Baggage with one member set, in place of the first of that key; all others stay byte for byte. Earlier ones go even
-- if `value` is nil or does not fit, since they would be believed. nil if nothing is left.
local function with_member(baggage, key, value)
  baggage = baggage or ""
  if not is_readable(baggage) then
    return baggage
  end
  local kept, place = others_of(baggage, key)
  local rest = table.concat(kept, ",")
  if value and (rest == "" or has_room(rest, MAX_MEMBERS)) then
    table.insert(kept, place or #kept + 1, key .. "=" .. value)
    local joined = table.concat(kept, ",")
    if #joined <= MAX_BAGGAGE then
      return joined
    end
  end
  return rest ~= "" and rest or nil
end

-- nil removes the header.
local function set_field(headers, name, value)
  if value == nil then
    headers:remove(name)
  else
    headers:replace(name, value)
  end
end
