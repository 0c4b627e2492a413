-- parts: settings
--
-- devroute's sidecar filter for comparisons: reports the service's response to a request of which a laptop got a copy.
--
-- It runs on the responses of such requests only, which have the key `compare` in their metadata (decide.lua,
-- shadow.lua). It only reads: head and body pass as they come, and what it keeps of them is bounded. It sends one
-- report, without waiting for the proxy's response; whatever fails here, the response is the same.

local MAX_FIELDS = 16384 -- bytes of all fields together
local TIMEOUT_MS = 1000

-- The response's head in lines: its status, then each field.
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

local function report(handle, id, lines, body, whole)
  lines[#lines + 1] = "\n"
  handle:httpCall(settings.control, {
    [":method"] = "POST",
    [":path"] = CONTROL.compare,
    [":authority"] = CONTROL.authority,
    [COMPARE] = id,
    [WHOLE] = whole and "yes" or "no",
  }, table.concat(lines, "\n") .. body, TIMEOUT_MS, true)
end

function envoy_on_response(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  local decided = metadata:get(METADATA)
  local id = decided and decided.compare
  if not id or id == "" or handle:headers():get(":status") == "101" then
    return
  end
  metadata:set(METADATA, "compare", "") -- once: a sidecar may have this filter for the mesh and for its workload
  local lines, chunks, size = head_of(handle), {}, 0
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if size + length > MAX_COMPARED_BODY then
      chunks[#chunks + 1] = chunk:getBytes(0, MAX_COMPARED_BODY - size)
      report(handle, id, lines, table.concat(chunks), false)
      return -- the rest passes unread
    end
    if length > 0 then
      chunks[#chunks + 1] = chunk:getBytes(0, length)
      size = size + length
    end
  end
  for name, value in pairs(handle:trailers() or {}) do
    lines[#lines + 1] = name .. ": " .. value -- gRPC's status
  end
  report(handle, id, lines, table.concat(chunks), true)
end
