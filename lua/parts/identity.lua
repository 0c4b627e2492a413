-- The names by which this sidecar's own service may stand in a contract.

local ENVIRONMENT_NAMES = { os.getenv("DEVROUTE_SERVICE") or "", os.getenv("ISTIO_META_WORKLOAD_NAME") or "" }
local ENVIRONMENT_NAMESPACE = os.getenv("POD_NAMESPACE") or os.getenv("ISTIO_META_NAMESPACE")

local function is_name(name)
  return name ~= nil and #name <= MAX_NAME and name:find("^%w[%w%.%-_]*$") ~= nil
end

-- Mesh peers name the service they dial in the SNI: outbound_.8080_.SUBSET_.foo.default.svc.cluster.local
-- Returns its name, namespace, port and host.
local function service_of_sni(sni)
  local port, host = sni:match("^outbound_%.(%d+)_%..-_%.(.+)$")
  if host == nil then
    return nil, nil
  end
  local name, namespace = host:match("^([%w%-]+)%.([%w%-]+)%.svc%.")
  return name, namespace, port, host
end

-- The services of the cluster that the request was for, as istiod lists them: JSON, from a filter in front of this one
-- (devroute/mesh/manifests/sidecar_filter.py). "-" for a cluster without, nil where there is no such filter.
local function own_services(info)
  return info:filterState():get(OWN_SERVICES)
end

-- Whether the SNI, which the caller writes, names one of them. Else the caller would have this sidecar act for a service
-- whose policy it has not met, and send requests there under this sidecar's identity.
local function is_own(sni, own)
  local _, _, _, host = service_of_sni(sni)
  return host ~= nil and own ~= nil and host:find("^[%w%-%.]+$") and own:find('"' .. host .. '"', 1, true) ~= nil
end

-- Candidate names, the most trusted first. A name that the settings give is the only one.
-- `needles` is what a contract in plain JSON has to contain to concern one of them; `known` caches contracts.
local function identity_of(given, given_namespace, sni)
  local sni_name, sni_namespace = service_of_sni(sni)
  local offered = { sni_name or "", ENVIRONMENT_NAMES[1], ENVIRONMENT_NAMES[2] }
  if given ~= nil then
    offered = { given }
  end
  local names, needles, seen = {}, {}, {}
  for _, name in ipairs(offered) do
    if is_name(name) and not seen[name] then
      seen[name] = true
      names[#names + 1] = name
      needles[#needles + 1] = '"' .. name .. '"'
      needles[#needles + 1] = '"' .. name .. "."
    end
  end
  local namespace = given_namespace or sni_namespace or ENVIRONMENT_NAMESPACE
  if not is_name(namespace) then
    namespace = nil
  end
  return { names = table.concat(names, ","), needles = needles, namespace = namespace, known = {}, size = 0 }
end

-- False only if the contract certainly names other services alone. Signed or broken contracts, which are no
-- JSON objects, and names hidden behind escapes are left to the proxy.
local function may_concern(raw, needles)
  if raw:byte(1) ~= 123 or raw:byte(-1) ~= 125 or raw:find("\\", 1, true) then
    return true
  end
  for _, needle in ipairs(needles) do
    if raw:find(needle, 1, true) then
      return true
    end
  end
  return false
end
