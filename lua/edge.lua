-- devroute's filter at the edge: which contracts from outside may enter the mesh, and a plain browser's way to send one.
--
-- Routes turn it on (devroute/edge_filter.py): for requests with the header x-devroute, a member of that name in baggage, a
-- cookie of that name, or the parameter `devroute`. Nobody else pays for it. It takes off what may not enter, leaves as
-- dynamic metadata that it has looked, and has the route chosen again.
--
-- A contract may enter that is signed (the proxy verifies it), or whose caller has the claim in a token that the gateway
-- verified, or comes from a listed network. No word of this is taken from a header. Where it fails itself, the request goes
-- on without any contract; it never takes a request down.

local CONTRACT = "x-devroute"
local TRACE = "x-devroute-trace" -- of `devroute trace`; enters where a contract does
local NAME = "devroute" -- of the baggage member, the cookie and the parameter
local NAMESPACE = "devroute.edge" -- of the metadata: settings on the route, what was done on the request
local JWT = "envoy.filters.http.jwt_authn" -- writes the payload of tokens that it verified into metadata of its name
local RESULT, REASON = "x-devroute-result", "x-devroute-reason"
local MAX_CONTRACT = 8192 -- bytes; the grammar's own limit (devroute/contract.py)
local MAX_COOKIE = 3800 -- bytes of its value: a browser keeps 4096 with name and attributes (RFC 6265 §6.1)
local MAX_REASON = 200 -- bytes of a header that people read
local MAX_NETWORKS = 1024 -- texts remembered; a configuration has a handful

--- Contracts as texts -------------------------------------------------------------------------------------------

-- Percent-decoded (RFC 3986 §2.1), or nil where a percent sign stands alone.
local function unescape(text)
  local broken = false
  local decoded = text:gsub("%%(.?.?)", function(digits)
    if not digits:find("^%x%x$") then
      broken = true
      return ""
    end
    return string.char(tonumber(digits, 16))
  end)
  return not broken and decoded or nil
end

local function escape(text)
  return (text:gsub("[^%w%-_%.~]", function(character)
    return ("%%%02X"):format(character:byte())
  end))
end

-- One line of printable ASCII that begins and ends as an object does; the proxy reads the grammar.
local function looks_like_object(text)
  return #text <= MAX_CONTRACT and text:find("^ *{[\32-\126]*} *$") ~= nil
end

-- The shape of a compact JWS (RFC 7515 §7.1) with a signature.
local function looks_signed(text)
  return #text <= MAX_CONTRACT and text:find("^ey[%w_%-]+%.[%w_%-]+%.[%w_%-]+$") ~= nil
end

--- Networks -----------------------------------------------------------------------------------------------------

-- The bytes of an IPv4 address (4) or an IPv6 address (16), or nil. IPv4 inside IPv6 is IPv4 (RFC 4291 §2.5.5.2).
local function bytes_of_ipv4(text)
  local bytes = { text:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$") }
  for index = 1, #bytes do
    bytes[index] = tonumber(bytes[index])
    if bytes[index] > 255 then
      return nil
    end
  end
  return #bytes == 4 and bytes or nil
end

local function append_groups(bytes, text)
  for group in text:gmatch("[^:]+") do
    local value = #group <= 4 and group:find("^%x+$") and tonumber(group, 16)
    if not value then
      return false
    end
    bytes[#bytes + 1] = math.floor(value / 256)
    bytes[#bytes + 1] = value % 256
  end
  return true
end

local function bytes_of_ipv6(text)
  local front, last = text:match("^(.*:)(%d+%.%d+%.%d+%.%d+)$")
  if front then
    local v4 = bytes_of_ipv4(last)
    if v4 == nil then
      return nil
    end
    text = front .. ("%x:%x"):format(v4[1] * 256 + v4[2], v4[3] * 256 + v4[4])
  end
  local head, tail = text:match("^(.-)::(.*)$")
  local bytes, rest = {}, {}
  if not append_groups(bytes, head or text) or not append_groups(rest, tail or "") then
    return nil
  end
  if head then
    for _ = #bytes + #rest + 1, 16 do
      bytes[#bytes + 1] = 0
    end
  end
  for _, byte in ipairs(rest) do
    bytes[#bytes + 1] = byte
  end
  return #bytes == 16 and bytes or nil
end

local function bytes_of_address(text)
  if not text:find(":", 1, true) then
    return bytes_of_ipv4(text)
  end
  local bytes = bytes_of_ipv6((text:gsub("%%.*$", "")))
  if bytes == nil or bytes[11] ~= 255 or bytes[12] ~= 255 then
    return bytes
  end
  for index = 1, 10 do
    if bytes[index] ~= 0 then
      return bytes
    end
  end
  return { bytes[13], bytes[14], bytes[15], bytes[16] }
end

local networks, remembered = {}, 0

-- The bytes and the prefix's length of "10.0.0.0/8"; false for what is none.
local function network_of(text)
  local known = networks[text]
  if known == nil then
    local address, bits = text:match("^(.+)/(%d+)$")
    local bytes = address and bytes_of_address(address)
    known = bytes and { bytes = bytes, bits = tonumber(bits) } or false
    if remembered >= MAX_NETWORKS then
      networks, remembered = {}, 0
    end
    networks[text], remembered = known, remembered + 1
  end
  return known
end

local function within(bytes, network)
  if #bytes ~= #network.bytes or network.bits > 8 * #bytes then
    return false
  end
  local whole = math.floor(network.bits / 8)
  for index = 1, whole do
    if bytes[index] ~= network.bytes[index] then
      return false
    end
  end
  local unit = 2 ^ (8 - network.bits % 8)
  return unit == 256 or math.floor(bytes[whole + 1] / unit) == math.floor(network.bytes[whole + 1] / unit)
end

-- `address` has its port, as Envoy writes it: "192.0.2.1:80" or "[2001:db8::1]:80".
local function in_networks(address, listed)
  local bytes = bytes_of_address(address:match("^%[(.+)%]:%d+$") or address:match("^([^:]+):%d+$") or "")
  for _, text in ipairs(bytes and listed or {}) do
    local network = network_of(text)
    if network and within(bytes, network) then
      return true
    end
  end
  return false
end

--- The caller ---------------------------------------------------------------------------------------------------

-- Whether a claim says yes: true itself, or where a value is wanted, that text, alone, in a list, or between spaces.
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

-- A question that is answered once at most, and by need: signed contracts do not care who sends them.
local function admission(handle, settings)
  local asked, may, why = false, false, nil
  return function(contract)
    if settings:get("signed") and looks_signed(contract) then
      return true
    end
    if not asked then
      asked, may, why = true, caller_may(handle, settings)
    end
    return may, why
  end
end

--- Header fields ------------------------------------------------------------------------------------------------

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

-- Takes those parts out of a field's values that `take` wants; all others stay byte for byte.
local function take_out(headers, name, separator, take)
  local values, kept_values, taken = values_of(headers, name), {}, false
  for _, value in ipairs(values) do
    local kept, changed = {}, false
    for part in (value .. separator):gmatch("([^" .. separator .. "]*)" .. separator) do
      if take(part) then
        changed = true
      else
        kept[#kept + 1] = part
      end
    end
    if changed then
      taken = true
      value = table.concat(kept, separator):gsub("^%s+", "")
    end
    if not changed or value ~= "" then
      kept_values[#kept_values + 1] = value
    end
  end
  if taken then
    set_values(headers, name, kept_values)
  end
end

-- The key and value of a baggage member (W3C Baggage §3.3.1). What libraries might take for the name is taken for it: some
-- decode and trim keys.
local function member_of(part)
  local key, value = part:match("^([^=;]*)=?([^;]*)")
  key = (unescape((key:gsub("%+", " "))) or key):gsub("[^%w!#%$&'%*%+%-%.%^_`|~]", ""):lower()
  return key, value:match("^%s*(.-)%s*$")
end

--- The parameter ------------------------------------------------------------------------------------------------

-- The values of the parameter, and the path without it.
local function parameter_of(path)
  local before, query = path:match("^([^?]*)%?(.*)$")
  local values, kept = {}, {}
  for part in ((query or "") .. "&"):gmatch("([^&]*)&") do
    local value = part:match("^" .. NAME .. "=(.*)$")
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
  local body = '{"code": "contract-invalid", "message": "%s", "hint": "%s", "service": null, "target": null, "request_id": null}\n'
  local hint = "write ?devroute= and a percent-encoded contract, or ?devroute=off"
  handle:respond({
    [":status"] = "400",
    ["content-type"] = "application/json",
    [RESULT] = "error",
    [REASON] = message,
  }, body:format(message, hint))
end

local function respond_cookie(handle, location, value, seconds)
  local attributes = "; Path=/; Max-Age=%d; HttpOnly; Secure; SameSite=Lax"
  handle:respond({
    [":status"] = "302",
    ["location"] = location,
    ["set-cookie"] = NAME .. "=" .. value .. attributes:format(seconds),
    ["cache-control"] = "no-store",
  }, "")
end

-- Only a person who goes to a page sets a cookie, not the pictures and scripts of other people's pages. Browsers say which
-- it is (Fetch Metadata); others have no cookies to protect.
local function is_navigation(headers)
  return (headers:get("sec-fetch-dest") or "document") == "document"
end

-- Returns true if the request has been answered, or false and why its parameter is not heeded. Who may not send a contract
-- hears nothing else: to them, a parameter of this name is the app's.
local function heed_parameter(handle, headers, settings, admit)
  local method, path = headers:get(":method"), headers:get(":path")
  if method ~= "GET" and method ~= "HEAD" then
    return false
  end
  local values, location = parameter_of(path)
  if #values == 0 then
    return false
  end
  -- Browsers take what begins with two slashes, of either kind, for another host's address (RFC 3986 §4.2).
  if location:find("^/[/\\]") then
    location = "/." .. location
  end
  local contract = unescape((values[1]:gsub("%+", " "))) or ""
  local off = contract == "off" and #values == 1
  if not off then
    local may, why = admit(contract)
    if not may then
      return false, why
    end
  end
  if not is_navigation(headers) then
    return false, "the parameter devroute counts only where a page is opened"
  end
  local value = escape(contract)
  if not location:find("^/[\33-\126]*$") then
    respond_invalid(handle, "the address has characters that a redirect cannot name")
  elseif off then
    respond_cookie(handle, location, "", 0)
  elseif #values > 1 then
    respond_invalid(handle, "the parameter devroute is given more than once")
  elseif not (looks_like_object(contract) or looks_signed(contract)) then
    respond_invalid(handle, "the parameter devroute is not a contract")
  elseif #value > MAX_COOKIE then
    respond_invalid(handle, "the contract is too long for a cookie; send it as the header x-devroute")
  else
    respond_cookie(handle, location, value, settings:get("cookie_seconds"))
  end
  return true
end

--- One request --------------------------------------------------------------------------------------------------

-- Takes off what may not enter; returns true if the request has been answered, or false and why something was taken off.
local function guard(handle)
  local headers, settings = handle:headers(), handle:metadata()
  local admit = admission(handle, settings)
  local answered, reason = heed_parameter(handle, headers, settings, admit)
  if answered then
    return true
  end

  local function refuse(contract)
    local may, why = admit(contract)
    reason = reason or why
    return not may
  end

  -- Markers that the mesh gives itself, none of which comes from outside.
  local markers = {}
  for name in pairs(headers) do
    if name:find("^x%-devroute%-") and name ~= TRACE then
      markers[#markers + 1] = name
    end
  end
  for _, name in ipairs(markers) do
    headers:remove(name)
  end

  local entered = false
  for _, value in ipairs(values_of(headers, CONTRACT)) do
    if refuse(value) then
      headers:remove(CONTRACT) -- of repeated ones none: which is meant is not ours to guess
      entered = false
      break
    end
    entered = true
  end

  take_out(headers, "baggage", ",", function(part)
    local key, value = member_of(part)
    if key ~= NAME then
      return key:find("^devroute%-") ~= nil -- a marker of the mesh's own
    end
    local refused = refuse(unescape(value) or value)
    entered = entered or not refused
    return refused
  end)

  local from_cookie
  take_out(headers, "cookie", ";", function(part)
    local value = part:match("^%s*" .. NAME .. "=(.-)%s*$")
    from_cookie = from_cookie or value
    return value ~= nil
  end)
  if from_cookie and not entered then
    local contract = unescape(from_cookie)
    if contract == nil or not (looks_like_object(contract) or looks_signed(contract)) then
      reason = reason or "the cookie devroute is not a contract; open ?devroute=off to remove it"
    elseif not refuse(contract) then
      headers:replace(CONTRACT, contract)
      entered = true
    end
  end
  if not entered then
    headers:remove(TRACE)
  end
  return false, reason
end

function envoy_on_request(handle)
  local guarded, answered, reason = pcall(guard, handle)
  if not guarded then
    handle:logErr("devroute: " .. tostring(answered))
    local headers = handle:headers()
    headers:remove(CONTRACT)
    headers:remove("baggage")
    reason = "the devroute filter failed at the edge; the gateway's log says why"
  elseif answered then
    return
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(NAMESPACE, "done", "yes")
  if reason ~= nil then
    metadata:set(NAMESPACE, "reason", reason:sub(1, MAX_REASON))
  end
  handle:clearRouteCache()
end

function envoy_on_response(handle)
  local done = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  local headers = handle:headers()
  if done ~= nil and done.reason ~= nil and headers:get(RESULT) == nil then
    headers:replace(RESULT, "fallback")
    headers:replace(REASON, done.reason)
  end
end

return {
  escape = escape,
  unescape = unescape,
  looks_signed = looks_signed,
  in_networks = in_networks,
  grants = grants,
  member_of = member_of,
  parameter_of = parameter_of,
}
