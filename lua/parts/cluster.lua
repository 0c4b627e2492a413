-- Envoy's clusters, by the names that Istio gives them.

-- Whether a cluster exists, without a request to it: Envoy looks the cluster up before it validates the headers,
-- which are missing here.
local function has_cluster(handle, name)
  local _, problem = pcall(handle.httpCall, handle, name, {}, nil, 1)
  return tostring(problem):find("headers must include", 1, true) ~= nil
end

local function port_of(address)
  return address and address:sub(-6):match(":(%d+)$")
end

-- The cluster of this sidecar's own app: named after the port that iptables redirected the request from.
local function own_cluster(info)
  return ("inbound|%s||"):format(port_of(info:downstreamLocalAddress()) or "")
end
