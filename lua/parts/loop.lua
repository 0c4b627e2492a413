-- Loops: a request is detoured at most once by each service. The services that have detoured it stand in a header
-- and, for apps that pass on only other carriers, in those, where "~" separates them.

local MAX_VIA = 1024 -- bytes; a chain of detours that long leads nowhere

-- The services so far, and whether the rule's own is one of them.
local function via_of(rule, headers, held)
  local via = headers:get(VIA) or carriers.via(held) or ""
  return via, #via > MAX_VIA or contains(via, rule.service)
end

-- Adds the rule's service to all of them.
local function add_via(rule, headers, held, via)
  if rule.via == nil or rule.via_before ~= via then
    rule.via_before, rule.kept = via, {}
    rule.via = via == "" and rule.service or via .. ", " .. rule.service
    rule.via_member = rule.via:gsub("[%s,]+", "~")
  end
  headers:replace(VIA, rule.via)
  for _, each in ipairs(carriers.written) do
    carriers.set(held, each.via, rule.via_member, rule.kept)
  end
end
