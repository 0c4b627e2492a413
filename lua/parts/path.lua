-- A request's path, as conditions compare it: percent-decoded once, without the query. Its twin is
-- devroute/contract/path.py. A path that one server may read otherwise than the next is nil, and is under no prefix.

local MAX_PATH = 8192 -- bytes; longer paths are under no prefix
local SLASH = 47

-- Invalid escapes, an encoded slash, and what can be decoded a second time.
local function decoded_once(path)
  if path:find("%%2[Ff]") or path:gsub("%%%x%x", ""):find("%", 1, true) then
    return nil
  end
  path = percent_decode(path)
  return not path:find("%%%x%x") and path or nil
end

-- UTF-8 sequences that are longer than needed: lenient decoders find dots and slashes in them (RFC 3629 §10).
local function has_overlong(path)
  return path:find("[\192\193]") or path:find("\224[\128-\159]") or path:find("\240[\128-\143]")
end

-- What Envoy leaves of them stands behind ";", which some servers remove with all up to the next slash.
local function has_dot_segment(path)
  return (path:gsub(";[^/]*", "") .. "/"):find("/%.%.?/")
end

local function path_of(target)
  if target == nil then
    return nil -- CONNECT has none
  end
  local path = target:sub(1, (target:find("?", 1, true) or 0) - 1)
  if #path > MAX_PATH or path:byte(1) ~= SLASH or path:find("#", 1, true) then
    return nil
  end
  if path:find("%", 1, true) then
    path = decoded_once(path)
  end
  if path == nil or path:find("[%c\\]") or has_overlong(path) or has_dot_segment(path) then
    return nil
  end
  return path
end

local function is_under_one_of(path, prefixes)
  for _, each in ipairs(path and prefixes or {}) do
    if path:sub(1, #each) == each then
      return true
    end
  end
  return false
end

-- Path prefixes, which spaces separate, in the same form; nil without a list, false if one of them is not a path.
local function prefixes_of(list)
  local prefixes = list and {}
  for each in (list or ""):gmatch("[^ ]+") do
    local prefix = path_of(each)
    if prefix == nil then
      return false
    end
    prefixes[#prefixes + 1] = prefix
  end
  return prefixes
end
