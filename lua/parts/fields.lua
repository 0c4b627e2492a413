-- Header fields whose values are lists, of which only some parts are ours. Each function reads a value once.

local function values_of(headers, name)
  local values = {}
  for index = 0, headers:getNumValues(name) - 1 do
    values[#values + 1] = headers:getAtIndex(name, index)
  end
  return values
end

local function set_values(headers, name, values)
  headers:remove(name)
  for _, value in ipairs(values) do
    headers:add(name, value)
  end
end

-- Removes the parts of a field's values for which `is_unwanted` is true; all others stay byte for byte.
local function remove_parts(headers, name, separator, is_unwanted)
  local kept_values, removed = {}, false
  for _, value in ipairs(values_of(headers, name)) do
    local kept, changed = {}, false
    for part in (value .. separator):gmatch("([^" .. separator .. "]*)" .. separator) do
      if is_unwanted(part) then
        changed = true
      else
        kept[#kept + 1] = part
      end
    end
    if changed then
      removed = true
      value = table.concat(kept, separator):gsub("^[ \t]+", "")
    end
    if not changed or value ~= "" then
      kept_values[#kept_values + 1] = value
    end
  end
  if removed then
    set_values(headers, name, kept_values)
  end
end
