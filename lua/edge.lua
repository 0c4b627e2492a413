-- parts: text, network, baggage, trace, plain, fields, cookie, set_cookie, edge_baggage, admission, lines, retry, contract_report, page
--
-- devroute's gateway filter: which contracts from outside enter the mesh, and how a plain browser sends one.
--
-- lua/edge_front.lua has taken the contract off the request, into dynamic metadata. This filter stands behind all
-- others, each of which has obeyed the configuration of the app's own route, and let the request pass. It puts back
-- what may enter. It does not have the route chosen again.
--
-- If it fails, the request goes on without any contract; it never fails a request.

local MAX_LOCATION = 8192 -- bytes: it stands in a header, and twice in a page
local OFF_HINT = ("; open ?%s=off to remove it"):format(PARAMETER)

--- The query parameter

-- The values of a parameter, and the path without it.
local function parameter_of(path, parameter)
  local before, query = path:match("^([^?]*)%?(.*)$")
  local values, kept, start = {}, {}, parameter .. "="
  for part in ((query or "") .. "&"):gmatch("([^&]*)&") do
    if part:sub(1, #start) == start then
      values[#values + 1] = part:sub(#start + 1)
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

-- The proxy's report on a contract, or a `problem` of the gateway's own, as an error: a page for browsers. `location` is the
-- address without the contract, nil if that is not what it came by.
local function respond_problem(handle, report, location)
  local kind = report.code and { code = report.code, status = report.status } or CONTRACT_INVALID
  local hint = report.hint or ("write ?%s= and a percent-encoded contract, or ?%s=off"):format(PARAMETER, PARAMETER)
  local response = error_response(kind, report.problem, hint)
  if accepts_page(handle:headers()) then
    local page = problem_page_of(report.problem, hint, report.corrected, location)
    respond_page(handle, response.status, response.reason, page)
  else
    respond(handle, response)
  end
end

-- Whether a text that is no contract may stand in a header, so that the proxy can say what is wrong with it.
local function can_be_sent(text)
  return #text <= MAX_CONTRACT and not text:find("%c")
end

local function respond_redirect(handle, location, cookie)
  handle:streamInfo():dynamicMetadata():set(EDGE_METADATA, "responded", "yes")
  handle:respond({
    [":status"] = "303", -- a form's POST becomes a GET (RFC 9110 §15.4.4)
    ["location"] = location,
    ["set-cookie"] = cookie,
    ["cache-control"] = "no-store",
  }, "")
end

-- Browsers state how a request came about (Fetch Metadata); other clients have no cookies to protect.
local function opens_page(headers)
  return (headers:get("sec-fetch-mode") or "navigate") == "navigate"
end

-- Whether the user typed the address, or came from a page of this origin, not in a frame, which no one has to click: also by the form of our own page, for which
-- browsers without Fetch Metadata send the Origin.
local function is_wanted(headers)
  local site = headers:get("sec-fetch-site")
  if site ~= nil then
    local alone = (headers:get("sec-fetch-dest") or "document") == "document"
    return alone and (site == "same-origin" or site == "none")
  end
  local origin, host = headers:get("origin"), headers:get(":authority")
  local scheme = headers:get("x-forwarded-proto") or "http"
  return origin ~= nil and (origin == scheme .. "://" .. host or origin == "https://" .. host)
end

-- What is wrong with a parameter, nil if it may become a cookie.
local function mistake_of(values, contract, location)
  if #location > MAX_LOCATION then
    return "the address without the contract is longer than " .. MAX_LOCATION .. " bytes"
  elseif #values > 1 then
    return "the parameter " .. PARAMETER .. " is given more than once"
  elseif contract ~= "off" and not is_contract(contract) and not can_be_sent(contract) then
    return "the parameter " .. PARAMETER .. " is not a contract"
  end
  return nil
end

-- The host of the page with the link, if the browser states it.
local function referring_origin(headers)
  return (headers:get("referer") or ""):match("^%a[%w+%-.]*://[^/?#]+")
end

-- Sets the cookie if the user wants it for certain, else asks. Returns as `handle_parameter` does.
local function respond_to_contract(gate, contract, location)
  local report = report_on(gate.handle, contract)
  if not is_contract(contract) and not (report and report.problem) then
    report = { problem = "the parameter " .. PARAMETER .. " is not a contract" }
  end
  if report == nil then
    return false, "the devroute proxy at the gateway cannot be reached, so that ?" .. PARAMETER .. "= was not read"
  elseif report.problem then
    respond_problem(gate.handle, report, location)
    return true
  end
  local headers = gate.handle:headers()
  local seconds = math.min(SETTINGS.cookie_seconds, tonumber(report.expires or SETTINGS.cookie_seconds))
  local value = percent_encode(contract)
  local cookie = set_cookie(cookie_name(is_secure(headers), SETTINGS.domain), value, seconds)
  if #cookie > MAX_SET_COOKIE then
    local problem = "the contract is too long for a cookie; send it as the header " .. CONTRACT
    respond_problem(gate.handle, { problem = problem }, location)
  elseif is_wanted(headers) then
    respond_redirect(gate.handle, location, cookie)
  else
    local confirmation = location .. (location:find("?", 1, true) and "&" or "?") .. CONFIRMATION .. "=" .. value
    local host, origin = headers:get(":authority"), referring_origin(headers)
    local reason = "devroute asks before it routes the requests of this browser"
    respond_page(gate.handle, "200", reason, page_of(report, seconds, host, origin, location, confirmation))
  end
  return true
end

-- Returns true if it has responded, or false and why the parameter was ignored. A caller that may not send contracts gets
-- no error: to it, a parameter of this name is the app's.
local function handle_parameter(gate)
  local path, headers = gate.taken.path, gate.handle:headers()
  local method = headers:get(":method")
  local parameter = (method == "GET" or method == "HEAD") and PARAMETER or method == "POST" and CONFIRMATION
  if path == nil or not parameter then
    return false
  end
  local values, location = parameter_of(path, parameter)
  if #values == 0 then
    return false
  end
  -- Browsers take a location that begins with two slashes of either kind for another host (RFC 3986 §4.2).
  if location:find("^/[/\\]") then
    location = "/." .. location
  end
  local contract = split_trace(decode_strictly((values[1]:gsub("%+", " "))) or "") -- a cookie outlives a trace
  if (contract ~= "off" or #values > 1) and not admits(gate, contract) then
    return false, gate.why
  elseif not opens_page(headers) then
    return false, "the parameter " .. PARAMETER .. " is read only when a page is opened"
  end
  local mistake = mistake_of(values, contract, location)
  if mistake ~= nil then
    respond_problem(gate.handle, { problem = mistake }, location)
  elseif contract == "off" then
    respond_redirect(gate.handle, location, cleared_cookie(is_secure(headers)))
  else
    return respond_to_contract(gate, contract, location)
  end
  return true
end

--- What was taken. Each of the following returns whether a contract entered by its way.

local function admit_headers(gate)
  local contracts = gate.taken.contracts or {}
  for index, each in ipairs(contracts) do
    contracts[index] = percent_decode(each)
    if not admits(gate, contracts[index]) then
      return false -- all of a repeated header: which one is meant is not known
    end
  end
  for _, each in ipairs(contracts) do
    gate.handle:headers():add(CONTRACT, each)
  end
  gate.contract = contracts[1]
  return contracts[1] ~= nil
end

local function admit_baggage(gate)
  local value = gate.taken.baggage and percent_decode(gate.taken.baggage)
  local contract = value and (decode_strictly(value) or value)
  if value == nil or not admits(gate, contract) then
    return false
  end
  local headers = gate.handle:headers()
  local baggage = with_member(headers:get("baggage"), BAGGAGE_CONTRACT, value)
  if is_contract(contract) and member_of(baggage or "", BAGGAGE_CONTRACT) == nil then -- it does not fit
    headers:replace(CONTRACT, contract)
  end
  set_field(headers, "baggage", baggage)
  gate.contract = gate.contract or contract
  return true
end

-- The contract of another carrier enters as the header, from which sidecars write all carriers; after those of header and
-- baggage, which come first for a sidecar too.
local function admit_other(gate)
  local value = gate.contract == nil and gate.taken.other and percent_decode(gate.taken.other)
  local contract = value and (decode_strictly(value) or value)
  if not value or not can_be_sent(contract) or not admits(gate, contract) then
    return false
  end
  gate.handle:headers():replace(CONTRACT, contract)
  gate.contract = contract
  return true
end

-- Responds to a contract, of the header or another carrier, that is invalid, or a name of none: it was sent with this
-- request, unlike a cookie. Returns whether it has. What is repeated, or cannot be judged here, is left to the sidecars.
local function refuse_invalid(gate)
  local contract = gate.contract and split_trace(gate.contract) -- what is remembered has no entry for each trace
  if contract == nil or is_plain(contract) or looks_signed(contract) or not can_be_sent(contract) then
    return false
  end
  local report = report_on(gate.handle, contract)
  if report == nil or (report.code ~= CONTRACT_INVALID.code and report.code ~= CONTRACT_UNKNOWN.code) then
    return false
  end
  respond_problem(gate.handle, report)
  return true
end

-- The contract in the cookie, or why there is none.
local function contract_of_cookie(gate)
  local cookies = gate.taken.cookies
  if cookies == nil then
    return nil
  end
  local name = cookie_name(is_secure(gate.handle:headers()), SETTINGS.domain)
  local values = cookies[name]
  if values == nil then
    return nil, ("the cookie %s does not count here, only %s does; open ?%s= again"):format(next(cookies), name, PARAMETER)
  elseif values[2] ~= nil then
    return nil, "the cookie " .. name .. " is sent more than once" .. OFF_HINT
  end
  local contract = split_trace(decode_strictly(percent_decode(values[1])) or "")
  if not is_contract(contract) then
    return nil, "the cookie " .. name .. " is not a contract" .. OFF_HINT
  end
  return contract
end

-- Browsers send a cookie with every request, long after it was right: one that is invalid or has expired changes nothing.
local function admit_cookie(gate)
  local contract, problem = contract_of_cookie(gate)
  gate.reason = gate.reason or problem
  if contract == nil or not admits(gate, contract) then
    return false
  end
  local report = report_on(gate.handle, contract)
  if report ~= nil and report.problem then
    gate.reason = gate.reason or "the contract in the cookie does not count: " .. report.problem
    return false
  end
  gate.handle:headers():replace(CONTRACT, contract)
  return true
end

-- Puts back what may enter. Returns true if it has responded, or false and why something stays out.
local function admit(handle, taken)
  local gate = { handle = handle, taken = taken }
  local responded, ignored = handle_parameter(gate)
  if responded then
    return true
  end
  gate.reason = ignored
  local entered = admit_headers(gate)
  entered = admit_baggage(gate) or entered
  entered = admit_other(gate) or entered
  if refuse_invalid(gate) then
    return true
  end
  entered = entered or admit_cookie(gate)
  if entered and taken.trace then
    handle:headers():replace(TRACE, taken.trace)
  end
  return false, gate.reason
end

function envoy_on_request(handle)
  local taken = handle:streamInfo():dynamicMetadata():get(EDGE_METADATA)
  if taken == nil or taken.taken == nil then
    return
  end
  local done, responded, reason = pcall(admit, handle, taken.taken)
  if not done then
    handle:logErr("devroute: " .. tostring(responded))
    local headers = handle:headers()
    headers:remove(CONTRACT)
    set_field(headers, "baggage", with_member(headers:get("baggage"), BAGGAGE_CONTRACT, nil))
    reason = "the devroute filter failed at the gateway; the gateway's log says why"
  end
  if reason ~= nil then
    handle:streamInfo():dynamicMetadata():set(EDGE_METADATA, "reason", printable(reason))
  end
end

function envoy_on_response(handle)
  local done = handle:streamInfo():dynamicMetadata():get(EDGE_METADATA)
  if done == nil or done.responded then
    return
  end
  local headers = handle:headers()
  remove_set_cookies(headers)
  if done.reason ~= nil and headers:get(RESULT) == nil then
    headers:replace(RESULT, "fallback")
    headers:replace(REASON, done.reason)
  end
end
