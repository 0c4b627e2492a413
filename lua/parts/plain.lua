-- The plain form of a contract, which most contracts have (devroute/routing/SIDECAR.md). One in this form is valid for
-- certain, so that a sidecar which it does not name need not ask; of any other only the proxy knows (devroute/contract).
-- Linear in the length of the contract.

local plain_services, is_plain -- alone at the top level: a function has room for 200 locals
do
  local TEXT = '^"([^"\\\t]*)"[ \t]*()'
  local NAME = '^"([^"\\\t]*)"[ \t]*:[ \t]*()'
  local OPENED, CLOSED = "^{[ \t]*()", "^([,}])[ \t]*()"

  local function is_label(text)
    return #text <= PLAIN.label and text:find("^[a-z0-9][a-z0-9%-]*$") ~= nil and text:sub(-1) ~= "-"
  end

  local function is_service(text)
    local name, namespace = text:match("^([^.]*)%.(.*)$")
    if name == nil then
      return is_label(text)
    end
    return is_label(name) and is_label(namespace)
  end

  local function is_byte(text)
    return text:find("^%d%d?%d?$") ~= nil and (text == "0" or text:sub(1, 1) ~= "0") and tonumber(text) <= 255
  end

  -- An IPv4 address, or a name whose last label cannot be taken for a number.
  local function is_host(text)
    if #text > PLAIN.host then
      return false
    end
    local is_address = text:find("^[%d.]+$") ~= nil
    local is_part, parts, last = is_address and is_byte or is_label, 0, nil
    for part in (text .. "."):gmatch("([^.]*)%.") do
      if not is_part(part) then
        return false
      end
      parts, last = parts + 1, part
    end
    return is_address and parts == 4 or not is_address and last:find("^%l") ~= nil
  end

  local function is_target(text)
    local version = text:match("^version:(.*)$")
    if version ~= nil then
      return #version <= PLAIN.label and version:find("^%w[%w%-_.]*$") ~= nil and version:find("%w$") ~= nil
    end
    local host, port = text:match("^([^:]*):([1-9]%d?%d?%d?%d?)$")
    if host ~= nil then
      return is_host(host) and tonumber(port) <= 65535
    end
    return is_label(text)
  end

  -- The number of a word, nil if it is none.
  local function number_of(word)
    local whole, fraction = word:match("^(%d+)(%.?%d*)$")
    if whole == nil or #word > 9 or fraction == "." or (#whole > 1 and whole:sub(1, 1) == "0") then
      return nil
    end
    return tonumber(word)
  end

  local function is_duration(kind, value)
    local seconds
    if kind == "word" then
      seconds = number_of(value)
    elseif kind == "text" then
      local digits, unit = value:match("^(%d%d?%d?%d?%d?%d?%d?)(m?s)$")
      seconds = digits and tonumber(digits) / (unit == "ms" and 1000 or 1)
    end
    return seconds ~= nil and seconds > 0 and seconds <= PLAIN.seconds
  end

  -- One text or a list of texts, each of which meets a test.
  local function texts(test)
    return function(kind, value)
      local list = kind == "text" and { value } or kind == "list" and value or {}
      for _, each in ipairs(list) do
        if #each > PLAIN.text or not test(each) then
          return false
        end
      end
      return #list > 0 and #list <= PLAIN.list
    end
  end

  local OPTIONS = {
    to = function(kind, value)
      return kind == "text" and is_target(value)
    end,
    methods = texts(function(each)
      return #each <= 32 and each:find("^%u[%u_%-]*$") ~= nil
    end),
    path = function(kind, value)
      local is_path = kind == "text" and #value <= PLAIN.text and value:find("^/[%w%-._~/]*$") ~= nil
      return is_path and not value:find("//", 1, true) and not value:find("/.", 1, true)
    end,
    from = texts(function(each)
      return each:find("^[a-z0-9%-]+/[a-z0-9%-.]+$") ~= nil or each:find("^spiffe://[!-+--~]+$") ~= nil
    end),
    percent = function(kind, value)
      return kind == "word" and (number_of(value) or 101) <= 100
    end,
    mirror = function(kind, value)
      return kind == "word" and (value == "true" or value == "false")
    end,
    fallback = function(kind, value)
      return kind == "text" and (value == "service" or value == "fail")
    end,
    timeout = is_duration,
    delay = is_duration,
    abort = function(kind, value)
      return kind == "word" and value:find("^[2-5]%d%d$") ~= nil
    end,
  }

  -- The value of an option at a place: "text", "word" (a number, true, false) or "list" (of texts); the value; the place
  -- behind it. nil for anything else.
  local function read_value(raw, at)
    local text, behind = raw:match(TEXT, at)
    if text ~= nil then
      return "text", text, behind
    end
    local word
    word, behind = raw:match("^([%l%d.]+)[ \t]*()", at)
    if word ~= nil then
      return "word", word, behind
    end
    local list, mark = {}, nil
    at = raw:match("^%[[ \t]*()", at)
    while at ~= nil and mark ~= "]" do
      text, behind = raw:match(TEXT, at)
      if text == nil then
        return nil
      end
      list[#list + 1] = text
      mark, at = raw:match("^([,%]])[ \t]*()", behind)
    end
    return at and "list", list, at
  end

  -- The place behind the options that begin at a place; nil if they are not plain.
  local function behind_options(raw, at)
    local seen, name, mark = {}, nil, nil
    repeat
      name, at = raw:match(NAME, at)
      if name == nil or OPTIONS[name] == nil or seen[name] then
        return nil
      end
      local kind, value
      kind, value, at = read_value(raw, at)
      if kind == nil or not OPTIONS[name](kind, value) then
        return nil
      end
      seen[name] = true
      mark, at = raw:match(CLOSED, at)
    until mark ~= ","
    local contradicts = seen.mirror and (seen.abort or seen.fallback)
    return mark == "}" and seen.to and not contradicts and at or nil
  end

  -- The services that a contract names, in its order; nil if it is not plain.
  function plain_services(raw)
    local at = raw:match("^[ \t]*{[ \t]*()")
    if at == nil or raw:find("[^\t\32-\126]") then
      return nil
    end
    local names, seen, mark = {}, {}, nil
    repeat
      local name, text, behind
      name, at = raw:match(NAME, at)
      if name == nil or seen[name] or not is_service(name) then
        return nil
      end
      seen[name], names[#names + 1] = true, name
      text, behind = raw:match(TEXT, at)
      if text == nil then
        local inside = raw:match(OPENED, at)
        behind = inside and behind_options(raw, inside)
      elseif not is_target(text) then
        return nil
      end
      if behind == nil then
        return nil
      end
      mark, at = raw:match(CLOSED, behind)
    until mark ~= ","
    return mark == "}" and at == #raw + 1 and #names <= PLAIN.entries and names or nil
  end

  function is_plain(raw)
    return plain_services(raw) ~= nil
  end
end
