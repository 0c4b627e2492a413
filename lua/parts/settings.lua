-- The route's metadata (devroute/mesh/manifests/sidecar_filter.py). All routes of one configuration have the same,
-- and a worker's Lua outlives its routes, so it is read again every second; for every request it would cost as much
-- as looking up the service's name.

local settings = {}
local settings_second = 0 -- when they were read

-- Returns true if a setting has changed.
local function read_settings(handle)
  local second = os.time()
  if settings_second == second then
    return false
  end
  local metadata, changed = handle:metadata(), false
  for _, key in ipairs(SETTING_KEYS) do
    local value = metadata:get(key)
    changed = changed or value ~= settings[key]
    settings[key] = value
  end
  settings_second = second
  return changed
end
