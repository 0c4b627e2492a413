-- parts: text, settings, baggage, trace_state, carriers, fields, cookie, edge_baggage
--
-- devroute's gateway filter, its front: takes contracts from outside off the request.
--
-- Routes turn it on (devroute/mesh/manifests/gateway_filter.py) for requests with the contract's header, one of its
-- other carriers, its cookie or its query parameter; all other requests pay nothing. It stands in front of all other filters,
-- moves what it finds into dynamic metadata, and has the route chosen again, so that each of them obeys the
-- configuration of the app's own route, as without a contract. lua/edge.lua, behind them, decides what comes back.
--
-- If it fails, the request goes on without a contract.

local MARKER_PREFIX = PREFIX .. "-"
local MAX_STORED = 3 * MAX_CONTRACT + 1 -- bytes of a contract, which a cookie holds percent-encoded
local MAX_COOKIES = 2 -- values kept for each name: a second one is enough to refuse both

-- Percent-encoded, since metadata holds UTF-8 only. A contract that is too long stays so.
local function stored(value)
  return percent_encode(value:sub(1, MAX_STORED))
end

local function take_contracts(headers)
  local texts = {}
  for _, value in ipairs(values_of(headers, CONTRACT)) do
    texts[#texts + 1] = stored(value)
  end
  headers:remove(CONTRACT)
  return texts[1] and texts
end

-- Headers that only the mesh itself sets. The token stays for the filter that verifies it.
local function remove_markers(headers)
  local markers = {}
  for name in pairs(headers) do
    if name:sub(1, #MARKER_PREFIX) == MARKER_PREFIX and name ~= AUTHORIZATION then
      markers[#markers + 1] = name
    end
  end
  for _, name in ipairs(markers) do
    headers:remove(name)
  end
end

-- What a carrier holds, as sidecars read it, percent-encoded; nil if there is nothing of ours. Nothing of ours is left.
local function take_carried(headers, carrier)
  local slot = carrier.contract
  local whole = table.concat(values_of(headers, slot.header), ",")
  if slot.key ~= nil then
    remove_parts(headers, slot.header, ",", is_our_member)
  else
    headers:remove(slot.header)
    headers:remove(carrier.via.header)
  end
  local value = is_readable(whole) and slot.kind.read(whole, slot.key) or ""
  return value ~= "" and stored(value) or nil
end

-- In baggage, and in the first of the others.
local function take_carriers(headers)
  local baggage, other = nil, nil
  for _, each in ipairs(carriers.read) do
    local value = take_carried(headers, each)
    if each.contract.header == "baggage" then
      baggage = value
    else
      other = other or value
    end
  end
  return baggage, other
end

-- The values of our cookies by name, nil if there are none.
local function take_cookies(headers)
  local found = nil
  remove_parts(headers, "cookie", ";", function(part)
    local name, value = cookie_pair(part)
    if name == nil or not COOKIES[name] then
      return false
    end
    found = found or {}
    found[name] = found[name] or {}
    if #found[name] < MAX_COOKIES then
      table.insert(found[name], stored(value))
    end
    return true
  end)
  return found
end

local function take(handle)
  local headers = handle:headers()
  local path, trace = headers:get(":path"), headers:get(TRACE)
  local taken = {
    path = path:find(PARAMETER .. "=", 1, true) and path:find("^/[\33-\126]*$") and path or nil,
    trace = trace and trace:find("^%x+$") and trace or nil,
    contracts = take_contracts(headers),
  }
  remove_markers(headers)
  taken.baggage, taken.other = take_carriers(headers)
  taken.cookies = take_cookies(headers)
  return taken
end

function envoy_on_request(handle)
  local done, taken = pcall(take, handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  if done then
    metadata:set(EDGE_METADATA, "taken", taken)
  else
    handle:logErr("devroute: " .. tostring(taken))
    local headers = handle:headers()
    headers:remove(CONTRACT)
    for _, each in ipairs(carriers.read) do
      headers:remove(each.contract.header)
      headers:remove(each.via.header)
    end
    metadata:set(EDGE_METADATA, "reason", "the devroute filter failed at the gateway; the gateway's log says why")
  end
  metadata:set(EDGE_METADATA, EDGE_DONE, "yes")
  handle:clearRouteCache()
end
