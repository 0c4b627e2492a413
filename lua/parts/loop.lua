-- Loops: a request is detoured at most once by each service. The services that have detoured it stand in a header
-- and, for apps that forward only baggage, in a member of it, where "~" separates them.

local MAX_VIA = 1024 -- bytes; a chain of detours that long leads nowhere

-- The services so far, and whether the rule's own is one of them.
local function via_of(rule, headers, baggage)
  local via = headers:get(VIA) or (baggage and member_of(baggage, BAGGAGE_VIA) or ""):gsub("~", ", ")
  return via, #via > MAX_VIA or contains(via, rule.service)
end

-- Adds the rule's service to both. Consecutive requests resemble each other, so the last result is kept.
local function add_via(rule, headers, via, baggage)
  if rule.via == nil or rule.via_before ~= via or rule.baggage_before ~= baggage then
    rule.via_before, rule.baggage_before = via, baggage
    rule.via = via == "" and rule.service or via .. ", " .. rule.service
    rule.baggage = with_member(baggage, BAGGAGE_VIA, (rule.via:gsub("[%s,]+", "~")))
  end
  headers:replace(VIA, rule.via)
  set_baggage(headers, rule.baggage)
end
