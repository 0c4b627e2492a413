-- The contracts of requests that this workload has received a moment ago, by the ids of their traces, for outgoing ones
-- that bear nothing else (lua/outbound.lua). Lua states share no memory, not even those of one sidecar, so contracts are
-- kept in files, in the folder of the settings, which is in memory (docs/decisions/0066).
--
-- Their number is fixed: an id's hash is the file's name, and a later trace overwrites an earlier one. A file holds its
-- time, its id, the services on the way and the contract, a line each.

local kept = {}
do
  local SHORTEST, LONGEST = 8, 64 -- characters of an id
  local MOST_READ = MAX_CONTRACT + 2048 -- bytes
  -- Where a request has the id of its trace, and how it stands there.
  local IDS = {
    { TRACEPARENT, "^%x%x%-(%x+)%-" },
    { "b3", "^(%x+)%-" },
    { "x-b3-traceid", "^%x+$" },
    { "uber-trace-id", "^(%x+)[:%%]" },
    { "x-datadog-trace-id", "^%d+$" },
    { "x-request-id", "^[%w%-]+$" },
  }
  local own = nil -- the name of this state's file that is not complete yet

  -- Calls `visit` for each id until it returns a value, and returns that. Zeros in front are not part of an id: some tracers
  -- leave them out.
  local function each_id(headers, visit)
    local seen = nil
    for _, each in ipairs(IDS) do
      local text = headers:get(each[1])
      local id = text and #text <= 2 * LONGEST and text:match(each[2])
      id = id and id:gsub("^0+", "")
      if id and #id >= SHORTEST and #id <= LONGEST and id ~= seen then
        seen = id
        local found = visit(id)
        if found ~= nil then
          return found
        end
      end
    end
    return nil
  end

  local function path_of_id(id)
    local hash = 0
    for index = 1, #id do
      hash = (hash * 31 + id:byte(index)) % KEPT.traces
    end
    return ("%s/devroute-trace-%d"):format(settings.folder, hash)
  end

  -- A file appears under its name as a whole, since others read it meanwhile.
  local function write(path, text)
    own = own or ("%s/devroute-part-%s"):format(settings.folder, new_id())
    local file, problem = io.open(own, "w")
    if file == nil then
      error("a contract cannot be kept for its trace: " .. problem)
    end
    file:write(text)
    file:close()
    os.rename(own, path)
  end

  -- Keeps the contract that the request has now. Raises an error where the folder cannot be written.
  function kept.keep(handle, headers)
    local contract = headers:get(CONTRACT)
    local via = headers:get(VIA) or carriers.via(carriers.of(headers)) or ""
    each_id(headers, function(id)
      write(path_of_id(id), table.concat({ handle:timestamp(), id, via, contract }, "\n"))
      return nil
    end)
  end

  -- The contract of an id, and the services on its way; nil if there is none, or no longer.
  local function read(id, now)
    local file = io.open(path_of_id(id), "r")
    if file == nil then
      return nil
    end
    local text = file:read(MOST_READ)
    file:close()
    local time, found, via, contract = (text or ""):match("^(%d+)\n([^\n]*)\n([^\n]*)\n([^\n]+)$")
    local age = time and now - tonumber(time)
    if found ~= id or age < 0 or age >= KEPT.seconds * 1000 then
      return nil
    end
    return { contract = contract, via = via }
  end

  -- What is kept of the trace that a request bears; nil if nothing is.
  function kept.of(handle, headers)
    local now = tonumber(handle:timestamp())
    return each_id(headers, function(id)
      return read(id, now)
    end)
  end
end
