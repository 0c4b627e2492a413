-- W3C tracestate, which every tracer that reads traceparent passes on, and which holds entries of several vendors. Ours is
-- a member of it. devroute/http/trace_state.py reads the same, with the same vectors. Linear in the length of the header.
--
-- Unlike in baggage there are no properties, no white space around "=", and of members with the same key the first counts,
-- since each writer puts its own in front (Trace Context §3.3.1.4, §3.5). A value that is too long for one member, as most
-- signed contracts are, takes two, KEY-1 and KEY-2, of which neither counts alone.

local trace_state = {}
do
  local function member(state, key)
    local _, at = next_member(state, key, 1, "^=")
    return at and trimmed(state:sub(at, (state:find(",", at, true) or 0) - 1))
  end

  -- A value as it is written, of one member or of both halves; nil if there is none.
  function trace_state.value(state, key)
    if not is_readable(state) then
      return nil
    end
    local whole = member(state, key)
    if whole ~= nil then
      return whole
    end
    local first, second = member(state, key .. "-1"), member(state, key .. "-2")
    return first and second and first .. second
  end

  -- tracestate with one value set, in front of all others, which stay byte for byte. Earlier ones of that key go even if
  -- `value` is nil or does not fit, since they would be believed. nil if nothing is left.
  function trace_state.with(state, key, value)
    local rest = state or ""
    if not is_readable(rest) then
      return rest
    end
    for _, each in ipairs({ key, key .. "-1", key .. "-2" }) do
      rest = table.concat(others_of(rest, each, "^="), ",")
    end
    local joined = value and key .. "=" .. value
    if value and #value > TRACE_STATE.value then
      local first, second = value:sub(1, TRACE_STATE.value), value:sub(TRACE_STATE.value + 1)
      joined = ("%s-1=%s,%s-2=%s"):format(key, first, key, second)
    end
    if joined and rest ~= "" then
      joined = joined .. "," .. rest
    end
    if joined and #joined <= TRACE_STATE.bytes and has_room(joined, TRACE_STATE.members + 1) then
      return joined
    end
    return rest ~= "" and rest or nil
  end

  -- A contract as a value: only what a value cannot have is percent-encoded (§3.3.1.3.2), since there is little room.
  function trace_state.encode(text)
    return percent_encode(text, "[^!-$&-+.-<>-~%-]")
  end
end
