-- The filter's settings, by the names in devroute/mesh/manifests/sidecar_filter.py. They stand in the code, since the
-- filter runs on the service's own route, which has none of ours.

local settings = SETTINGS
