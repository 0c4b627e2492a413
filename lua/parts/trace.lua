-- A trace's id inside a contract (`devroute trace`), so that whatever an app passes on carries both. The twin of
-- devroute/contract/trace_id.py: a member of the JSON, or a suffix of a signed contract or of the name of a saved one.
-- Linear in the contract.

local TRACE_ID = { key = BAGGAGE_TRACE:gsub("%-", "%%-") } -- patterns, and bytes
TRACE_ID.member = '^"' .. TRACE_ID.key .. '"[ \t]*:[ \t]*"(%x+)"[ \t]*()'
TRACE_ID.suffix = "^%-" .. TRACE_ID.key .. "%-(%x+)[ \t]*$"
TRACE_ID.opening, TRACE_ID.closing = 123, 125

-- Whether the id is a suffix: behind a signature, or behind a name.
function TRACE_ID.is_suffix(contract)
  return contract:sub(1, 2) == "ey" or contract:sub(1, 1) == "@"
end

local function is_trace(text)
  return text ~= nil and #text == 32 and not text:find("[^%da-f]")
end

-- The id in a traceparent (W3C Trace Context), if it is that of a trace of `devroute trace`, else nil. So a trace shows
-- services that a caller called without the contract, too.
function TRACE_ID.of_parent(parent)
  if parent == nil or parent:find(TRACED_PARENT, 1, true) ~= 1 then
    return nil
  end
  local id = parent:sub(4, 35)
  return is_trace(id) and id or nil
end

-- The contract without a trace's id, and the id; the text itself and nil if it has none.
local function split_trace(text)
  local at = text:find(BAGGAGE_TRACE, 1, true)
  if at == nil then
    return text, nil
  elseif TRACE_ID.is_suffix(text) then
    local id = text:match(TRACE_ID.suffix, at - 1)
    if is_trace(id) then
      return text:sub(1, at - 2), id
    end
    return text, nil
  end
  local id, behind = text:match(TRACE_ID.member, at - 1)
  local following = id and text:byte(behind)
  if not is_trace(id) or (following ~= COMMA and following ~= TRACE_ID.closing) then
    return text, nil
  end
  local last = at - 2
  while text:byte(last) == SPACE or text:byte(last) == TAB do
    last = last - 1
  end
  if text:byte(last) == COMMA then
    return text:sub(1, last - 1) .. text:sub(behind), id
  elseif text:byte(last) == TRACE_ID.opening then
    local rest = text:sub(following == COMMA and behind + 1 or behind)
    return text:sub(1, last) .. rest:gsub("^[ \t]+", ""), id
  end
  return text, nil
end

-- The contract with a trace's id, or unchanged where it is neither an object nor signed.
local function with_trace(contract, trace)
  if contract:byte(1) == TRACE_ID.opening and contract:byte(-1) == TRACE_ID.closing then
    return ('%s,"%s":"%s"}'):format(contract:sub(1, -2), BAGGAGE_TRACE, trace)
  elseif TRACE_ID.is_suffix(contract) then
    return ("%s-%s-%s"):format(contract, BAGGAGE_TRACE, trace)
  end
  return contract
end
