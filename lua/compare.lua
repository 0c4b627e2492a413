-- devroute's word to the laptop's owner about what the real service answered to a request of which the laptop had a copy.
--
-- It runs on the responses of such requests only, which have the mark `compare` in their metadata (devroute.lua, shadow.lua).
-- It reads along: head and body go on as they come, and what it keeps of them is bounded. It tells the proxy once, without
-- waiting for an answer; whatever goes wrong here, the response is the same.

local MAX_BODY = 32768 -- bytes; longer ones are compared by their beginning (devroute/comparison.py has the same)
local MAX_FIELDS = 16384 -- bytes of all fields together
local TIMEOUT_MS = 1000

-- The answer's head as the proxy reads it: status, then a line for each field.
local function head_of(handle)
  local lines, size = {}, 0
  for name, value in pairs(handle:headers()) do
    if name == ":status" then
      table.insert(lines, 1, "status " .. value)
    elseif name:sub(1, 1) ~= ":" then
      size = size + #name + #value
      if size <= MAX_FIELDS then
        lines[#lines + 1] = name .. ": " .. value
      end
    end
  end
  return lines
end

local function tell(handle, control, id, lines, body, whole)
  lines[#lines + 1] = "\n"
  handle:httpCall(control, {
    [":method"] = "POST",
    [":path"] = "/compare",
    [":authority"] = "devroute-proxy",
    ["x-devroute-compare"] = id,
    ["x-devroute-whole"] = whole and "yes" or "no",
  }, table.concat(lines, "\n") .. body, TIMEOUT_MS, true)
end

function envoy_on_response(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  local decided = metadata:get("devroute")
  local id = decided and decided.compare
  local control = id and handle:metadata():get("control")
  if control == nil or id == "" or handle:headers():get(":status") == "101" then
    return
  end
  metadata:set("devroute", "compare", "") -- once: a sidecar may have this filter for the mesh and for its workload
  local lines, pieces, size = head_of(handle), {}, 0
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if size + length > MAX_BODY then
      pieces[#pieces + 1] = chunk:getBytes(0, MAX_BODY - size)
      tell(handle, control, id, lines, table.concat(pieces), false)
      return -- the rest is of no interest, and passes untouched
    end
    if length > 0 then
      pieces[#pieces + 1] = chunk:getBytes(0, length)
      size = size + length
    end
  end
  for name, value in pairs(handle:trailers() or {}) do
    lines[#lines + 1] = name .. ": " .. value -- of gRPC: its status
  end
  tell(handle, control, id, lines, table.concat(pieces), true)
end
