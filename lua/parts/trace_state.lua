-- W3C tracestate, which every tracer that reads traceparent passes on, and which holds entries of several vendors. Ours is
-- a member of it. The twin of devroute/http/trace_state.py, with the same vectors. Linear in the length of the header.
--
-- Unlike in baggage there are no properties, no white space around "=", and of members with the same key the first counts,
-- since each writer puts its own in front (Trace Context §3.3.1.4, §3.5).

local trace_state = {}
do
  -- The next member of a key from `at` on: where it begins, behind its comma, and where its value does; nil if there is none.
  local function next_state(state, key, at)
    while true do
      local first, last = state:find(key, at, true)
      if first == nil then
        return nil
      end
      local before = first - 1
      local byte = state:byte(before)
      while byte == SPACE or byte == TAB do
        before = before - 1
        byte = state:byte(before)
      end
      if state:sub(last + 1, last + 1) == "=" and (byte == nil or byte == COMMA) then
        return before + 1, last + 2
      end
      at = last + 1
    end
  end

  -- A member's value as it is written; nil if there is none.
  function trace_state.value(state, key)
    if not is_readable(state) then
      return nil
    end
    local _, at = next_state(state, key, 1)
    return at and trimmed(state:sub(at, (state:find(",", at, true) or 0) - 1))
  end

  -- tracestate with one member set, in front of all others, which stay byte for byte. Earlier ones of that key go even if
  -- `value` is nil or does not fit, since they would be believed. nil if nothing is left.
  function trace_state.with(state, key, value)
    state = state or ""
    if not is_readable(state) then
      return state
    end
    local rest = table.concat(others_of(state, key, next_state), ",")
    if value and (rest == "" or has_room(rest, TRACE_STATE.members)) then
      local joined = key .. "=" .. value .. (rest ~= "" and "," .. rest or "")
      if #joined <= TRACE_STATE.bytes then
        return joined
      end
    end
    return rest ~= "" and rest or nil
  end

  -- A contract as a value: only what a value cannot have is percent-encoded (§3.3.1.3.2), since there is little room.
  function trace_state.encode(text)
    return percent_encode(text, "[^!-$&-+.-<>-~%-]")
  end
end
