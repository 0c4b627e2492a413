-- Random numbers and ids. All workers start with the same state, so each seeds its own generator.

math.randomseed(os.time() + tonumber(tostring({}):match("0x(%x+)") or "0", 16) % 1000003)

-- 128 bits as hexadecimal digits. Unique, not secret: guessing one gains nothing.
local function new_id()
  local words = {}
  for word = 1, 4 do
    words[word] = ("%08x"):format(math.random(0, 4294967295))
  end
  return table.concat(words)
end
