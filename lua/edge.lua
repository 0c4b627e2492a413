-- parts: text, network
--
-- devroute's gateway filter: which contracts from outside enter the mesh, and how a plain browser sends one.
--
-- Routes turn it on (devroute/mesh/manifests/gateway_filter.py) for requests with the contract's header, its member in
-- baggage, its cookie or its query parameter; all other requests pay nothing. It removes what may not enter, leaves a
-- mark in dynamic metadata, and has the route chosen again.
--
-- A contract enters if it is signed (the proxy verifies it), or if its caller has the claim in a token that the
-- gateway verified, or comes from a listed network. None of this is taken from a header. If the filter fails, the
-- request goes on without any contract; it never fails a request.

local JWT = "envoy.filters.http.jwt_authn" -- leaves the payloads of the tokens that it verified in metadata of its name
local MAX_COOKIE = 3800 -- bytes of its value: a browser keeps 4096 with name and attributes (RFC 6265 §6.1)
local MARKER_PREFIX = PREFIX .. "-"
local MEMBER_PREFIX = BAGGAGE_CONTRACT .. "-"

--- Contracts as text

-- Percent-decoded (RFC 3986 §2.1); nil if a percent sign has no two hex digits behind it.
local function decode_strictly(text)
  if text:gsub("%%%x%x", ""):find("%", 1, true) then
    return nil
  end
  return percent_decode(text)
end

-- One line of printable ASCII in braces; the proxy parses it.
local function looks_like_object(text)
  return #text <= MAX_CONTRACT and text:find("^ *{[\32-\126]*} *$") ~= nil
end

-- The shape of a compact JWS (RFC 7515 §7.1) with a signature.
local function looks_signed(text)
  return #text <= MAX_CONTRACT and text:find("^ey[%w_%-]+%.[%w_%-]+%.[%w_%-]+$") ~= nil
end

--- The caller

-- Whether a claim grants the right: it is true or, if a value is wanted, that text, alone, in a list or among words.
local function grants(claim, wanted)
  if wanted == nil then
    return claim == true
  elseif type(claim) == "string" then
    return (" " .. claim .. " "):find(" " .. wanted .. " ", 1, true) ~= nil
  elseif type(claim) == "table" then
    for _, each in ipairs(claim) do
      if each == wanted then
        return true
      end
    end
  end
  return false
end

local function has_claim(info, settings)
  local claim = info:dynamicMetadata():get(JWT)
  claim = claim and claim[settings:get("payload")]
  for _, key in ipairs(settings:get("claim")) do
    claim = type(claim) == "table" and claim[key] or nil
  end
  return grants(claim, settings:get("claim_value"))
end

-- Whether the caller may send unsigned contracts, and if not, why.
local function caller_may(handle, settings)
  local info = handle:streamInfo()
  if has_claim(info, settings) then
    return true
  end
  local direct = settings:get("address") == "direct"
  local address = direct and info:downstreamDirectRemoteAddress() or info:downstreamRemoteAddress()
  if in_networks(address, settings:get("networks")) then
    return true
  end
  local claim = table.concat(settings:get("claim"), ".")
  return false, ("no contract from outside: no valid token with the claim %s, and %s is in no listed network"):format(claim, address)
end

-- Whether a contract may enter, and if not, why. The caller is judged once at most, and only for an unsigned contract:
-- anyone may send a signed one.
local function admits(gate, contract)
  if gate.settings:get("signed") and looks_signed(contract) then
    return true
  end
  if gate.may == nil then
    gate.may, gate.why = caller_may(gate.handle, gate.settings)
  end
  return gate.may, gate.why
end

-- The same the other way round; the first reason is kept for the response.
local function refuses(gate, contract)
  local may, why = admits(gate, contract)
  gate.reason = gate.reason or why
  return not may
end

--- Header fields

local function values_of(headers, name)
  local values = {}
  for index = 0, headers:getNumValues(name) - 1 do
    values[#values + 1] = headers:getAtIndex(name, index)
  end
  return values
end

local function set_values(headers, name, values)
  headers:remove(name)
  for _, value in ipairs(values) do
    headers:add(name, value)
  end
end

-- Removes the parts of a field's values for which `is_unwanted` is true; all others stay byte for byte.
local function remove_parts(headers, name, separator, is_unwanted)
  local kept_values, removed = {}, false
  for _, value in ipairs(values_of(headers, name)) do
    local kept, changed = {}, false
    for part in (value .. separator):gmatch("([^" .. separator .. "]*)" .. separator) do
      if is_unwanted(part) then
        changed = true
      else
        kept[#kept + 1] = part
      end
    end
    if changed then
      removed = true
      value = table.concat(kept, separator):gsub("^%s+", "")
    end
    if not changed or value ~= "" then
      kept_values[#kept_values + 1] = value
    end
  end
  if removed then
    set_values(headers, name, kept_values)
  end
end

-- The key and value of a baggage member (W3C Baggage §3.3.1). Some libraries decode and trim keys, so every spelling
-- that one of them takes for our key is taken for it here.
local function key_and_value(part)
  local key, value = part:match("^([^=;]*)=?([^;]*)")
  key = (decode_strictly((key:gsub("%+", " "))) or key):gsub("[^%w!#%$&'%*%+%-%.%^_`|~]", ""):lower()
  return key, value:match("^%s*(.-)%s*$")
end

--- The query parameter

-- The parameter's values, and the path without it.
local function parameter_of(path)
  local before, query = path:match("^([^?]*)%?(.*)$")
  local values, kept = {}, {}
  for part in ((query or "") .. "&"):gmatch("([^&]*)&") do
    local value = part:match("^" .. PARAMETER .. "=(.*)$")
    if value then
      values[#values + 1] = value
    else
      kept[#kept + 1] = part
    end
  end
  if #values == 0 then
    return values, path
  end
  local rest = table.concat(kept, "&")
  return values, before .. (rest ~= "" and "?" .. rest or "")
end

local function respond_invalid(handle, message)
  local hint = ("write ?%s= and a percent-encoded contract, or ?%s=off"):format(PARAMETER, PARAMETER)
  respond(handle, error_response(CONTRACT_INVALID, message, hint))
end

local function respond_cookie(handle, location, value, seconds)
  local attributes = "; Path=/; Max-Age=%d; HttpOnly; Secure; SameSite=Lax"
  handle:respond({
    [":status"] = "302",
    ["location"] = location,
    ["set-cookie"] = COOKIE .. "=" .. value .. attributes:format(seconds),
    ["cache-control"] = "no-store",
  }, "")
end

-- Only opening a page sets a cookie, not the images and scripts of other sites' pages. Browsers state which it is
-- (Fetch Metadata); other clients have no cookies to protect.
local function is_navigation(headers)
  return (headers:get("sec-fetch-dest") or "document") == "document"
end

-- Sets the cookie, removes it ("off"), or explains what is wrong with the parameter.
local function respond_to_parameter(handle, values, contract, location, seconds)
  local value = percent_encode(contract)
  if not location:find("^/[\33-\126]*$") then
    respond_invalid(handle, "the address has characters that a redirect cannot contain")
  elseif contract == "off" and #values == 1 then
    respond_cookie(handle, location, "", 0)
  elseif #values > 1 then
    respond_invalid(handle, "the parameter " .. PARAMETER .. " is given more than once")
  elseif not (looks_like_object(contract) or looks_signed(contract)) then
    respond_invalid(handle, "the parameter " .. PARAMETER .. " is not a contract")
  elseif #value > MAX_COOKIE then
    respond_invalid(handle, "the contract is too long for a cookie; send it as the header " .. CONTRACT)
  else
    respond_cookie(handle, location, value, seconds)
  end
end

-- Returns true if it has responded, or false and why the parameter was ignored. A caller that may not send contracts gets
-- no error: to it, a parameter of this name is the app's.
local function handle_parameter(gate, headers)
  local method = headers:get(":method")
  if method ~= "GET" and method ~= "HEAD" then
    return false
  end
  local values, location = parameter_of(headers:get(":path"))
  if #values == 0 then
    return false
  end
  -- Browsers take a location that begins with two slashes of either kind for another host (RFC 3986 §4.2).
  if location:find("^/[/\\]") then
    location = "/." .. location
  end
  local contract = decode_strictly((values[1]:gsub("%+", " "))) or ""
  if contract ~= "off" or #values > 1 then
    local may, why = admits(gate, contract)
    if not may then
      return false, why
    end
  end
  if not is_navigation(headers) then
    return false, "the parameter " .. PARAMETER .. " is read only when a page is opened"
  end
  respond_to_parameter(gate.handle, values, contract, location, gate.settings:get("cookie_seconds"))
  return true
end

--- One request

-- Headers that only the mesh itself sets.
local function remove_markers(headers)
  local markers = {}
  for name in pairs(headers) do
    if name:sub(1, #MARKER_PREFIX) == MARKER_PREFIX and name ~= TRACE then
      markers[#markers + 1] = name
    end
  end
  for _, name in ipairs(markers) do
    headers:remove(name)
  end
end

-- Each of the following returns whether a contract entered by its way.
local function admit_header(gate, headers)
  local entered = false
  for _, value in ipairs(values_of(headers, CONTRACT)) do
    if refuses(gate, value) then
      headers:remove(CONTRACT) -- all of a repeated header: which one is meant is not known
      return false
    end
    entered = true
  end
  return entered
end

local function admit_baggage(gate, headers)
  local entered = false
  remove_parts(headers, "baggage", ",", function(part)
    local key, value = key_and_value(part)
    if key ~= BAGGAGE_CONTRACT then
      return key:sub(1, #MEMBER_PREFIX) == MEMBER_PREFIX -- set by the mesh itself
    end
    local refused = refuses(gate, decode_strictly(value) or value)
    entered = entered or not refused
    return refused
  end)
  return entered
end

local function admit_cookie(gate, headers, entered)
  local cookie
  remove_parts(headers, "cookie", ";", function(part)
    local value = part:match("^%s*" .. COOKIE .. "=(.-)%s*$")
    cookie = cookie or value
    return value ~= nil
  end)
  if cookie == nil or entered then
    return false
  end
  local contract = decode_strictly(cookie)
  if contract == nil or not (looks_like_object(contract) or looks_signed(contract)) then
    gate.reason = gate.reason or ("the cookie %s is not a contract; open ?%s=off to remove it"):format(COOKIE, PARAMETER)
    return false
  elseif refuses(gate, contract) then
    return false
  end
  headers:replace(CONTRACT, contract)
  return true
end

-- Removes what may not enter. Returns true if it has responded, or false and why something was removed.
local function guard(handle)
  local headers = handle:headers()
  local gate = { handle = handle, settings = handle:metadata() }
  local responded, ignored = handle_parameter(gate, headers)
  if responded then
    return true
  end
  gate.reason = ignored
  remove_markers(headers)
  local entered = admit_header(gate, headers)
  entered = admit_baggage(gate, headers) or entered
  entered = admit_cookie(gate, headers, entered) or entered
  if not entered then
    headers:remove(TRACE)
  end
  return false, gate.reason
end

function envoy_on_request(handle)
  local guarded, responded, reason = pcall(guard, handle)
  if not guarded then
    handle:logErr("devroute: " .. tostring(responded))
    local headers = handle:headers()
    headers:remove(CONTRACT)
    headers:remove("baggage")
    reason = "the devroute filter failed at the gateway; the gateway's log says why"
  elseif responded then
    return
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(EDGE_METADATA, EDGE_DONE, "yes")
  if reason ~= nil then
    metadata:set(EDGE_METADATA, "reason", reason:sub(1, MAX_REASON))
  end
  handle:clearRouteCache()
end

function envoy_on_response(handle)
  local done = handle:streamInfo():dynamicMetadata():get(EDGE_METADATA)
  local headers = handle:headers()
  if done ~= nil and done.reason ~= nil and headers:get(RESULT) == nil then
    headers:replace(RESULT, "fallback")
    headers:replace(REASON, done.reason)
  end
end
