-- Text: percent coding, header values, lists, the JSON body of an error.

-- Printable ASCII of at most MAX_REASON bytes, as a header value has to be.
local function printable(text)
  return (text:sub(1, MAX_REASON):gsub("[^\32-\126]", "?"))
end

-- Without spaces and tabs at its ends. A single pattern that does this takes quadratic time where it fails.
local function trimmed(text)
  local first = text:find("[^ \t]")
  return first and text:match("^.*[^ \t]", first) or ""
end

-- Percent-encoded: the characters of a set, by default all but RFC 3986's unreserved ones (§2.3).
local function percent_encode(text, encoded)
  return (text:gsub(encoded or "[^%w%-%._~]", function(char)
    return ("%%%02X"):format(char:byte())
  end))
end

-- Percent-decoded; a percent sign without two hex digits behind it stays.
local function percent_decode(text)
  return (text:gsub("%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end))
end

-- Whether `name` is in a list of names, which commas, white space or tildes separate.
local function contains(list, name)
  for each in list:gmatch("[^%s,~]+") do
    if each == name then
      return true
    end
  end
  return false
end

-- Printable ASCII, as it stands in a string of JSON.
local function escape_json(text)
  return (text:gsub('[\\"]', "\\%0"))
end

-- The response to a request that gets an error, with the members of every error body of devroute.
local function error_response(kind, message, hint, service, target)
  local body = '{"code": "%s", "message": "%s", "hint": "%s", "service": %s, "target": %s, "request_id": null}\n'
  service = service and '"' .. service .. '"' or "null"
  target = target and '"' .. target .. '"' or "null"
  return {
    status = kind.status,
    reason = printable(message),
    body = body:format(kind.code, escape_json(message), escape_json(hint), service, target),
  }
end

local function respond(handle, response)
  handle:respond({
    [":status"] = response.status,
    ["content-type"] = "application/json",
    ["cache-control"] = "no-store",
    [RESULT] = "error",
    [REASON] = response.reason,
  }, response.body)
end
