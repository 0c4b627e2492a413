-- Where the mesh finds the service itself, or a version of it.

-- The service's host, and its possible ports, the likeliest first. An SNI that is believed names both; without one the
-- port is the one in the Host header, else the app's own.
local function places_of(handle, headers, rule, identity)
  local info = handle:streamInfo()
  local name, namespace = rule.service:match("^([^%.]+)%.?(.*)$")
  local sni = info:requestedServerName()
  local sni_name, _, port, host = service_of_sni(sni)
  local ports = { port }
  if sni_name ~= name or not is_own(sni, own_services(info)) then
    namespace = namespace ~= "" and namespace or identity.namespace or "default"
    host = ("%s.%s.svc.%s"):format(name, namespace, settings.domain or "cluster.local")
    ports = { port_of(headers:get(":authority")) or "80", port_of(info:downstreamLocalAddress()) }
  end
  return host, ports
end

-- The name of the version's cluster; nil if the sidecar has none.
local function version_cluster(handle, headers, rule, identity)
  local host, ports = places_of(handle, headers, rule, identity)
  for _, port in ipairs(ports) do
    local name = ("outbound|%s|%s|%s"):format(port, rule.version, host)
    if has_cluster(handle, name) then
      return name
    end
  end
  return nil
end

-- The service as host:port; nil if the sidecar does not know it. The last result is kept.
local function origin_of(handle, headers, rule, identity)
  local host, ports = places_of(handle, headers, rule, identity)
  local asked = host .. ":" .. table.concat(ports, ",")
  if rule.origin_asked ~= asked then
    rule.origin_asked, rule.origin = asked, nil
    for _, port in ipairs(ports) do
      if has_cluster(handle, ("outbound|%s||%s"):format(port, host)) then
        rule.origin = host .. ":" .. port
        break
      end
    end
  end
  return rule.origin
end
