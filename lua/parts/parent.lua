-- traceparent (W3C Trace Context §3.2) for requests with a contract and without one: tracers read tracestate only beside it.

local add_parent
do
  -- A request with one of these belongs to a trace of another format, which a traceparent of ours would break.
  local OTHER_TRACES = { "uber-trace-id", "x-datadog-trace-id", "x-cloud-trace-context", "x-amzn-trace-id" }
  local VALUE = "00-%s-%s-%s"

  local function is_id(text, length)
    return text ~= nil and #text == length and not text:find("[^%da-f]") and text:find("[^0]") ~= nil
  end

  -- The ids of a trace in B3, and whether it is sampled; nil if there is none.
  local function b3_of(headers)
    local trace, span = headers:get("x-b3-traceid"), headers:get("x-b3-spanid")
    local flag = headers:get("x-b3-sampled")
    local single = headers:get("b3")
    if trace == nil and single ~= nil then
      trace, span, flag = single:match("^(%x+)%-(%x+)%-?([01d]?)")
      return trace or "", span, flag
    end
    return trace, span, flag
  end

  -- Of the trace that the request belongs to, so that a tracer that reads both formats finds the same; else of a new one.
  function add_parent(headers)
    local trace, span, flag = b3_of(headers)
    if trace ~= nil then
      trace = #trace == 16 and ("0"):rep(16) .. trace or trace
      if is_id(trace, 32) and is_id(span, 16) then
        local flags = (flag == "1" or flag == "d") and "01" or "00"
        headers:replace(TRACEPARENT, VALUE:format(trace, span, flags))
      end
      return
    end
    for _, name in ipairs(OTHER_TRACES) do
      if headers:get(name) ~= nil then
        return
      end
    end
    headers:replace(TRACEPARENT, VALUE:format(new_id(), new_id():sub(1, 16), settings.parent))
  end
end
