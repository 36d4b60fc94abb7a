"""What Redis runs for the checkpoint, each script as one step that no other client interrupts.

While a script runs Redis answers nobody, so none may take long.
"""

from __future__ import annotations

# KEYS: run, slices. ARGV: keep, tau, names of counts, stage, builder, then by slice: number, epoch,
# counts as JSON array. Returns nil when nothing was written, else whether the run was there, its
# fields, and who builds it.
#
# Stages: `write` what batches did, to a run that is there. Or build one that is not there, or mend
# one that is, in pieces: the `first`, `next` ones, and `end`, which is empty and makes it be there.
# While it is built a field `building` says who began, and readers do not see it. Others join in:
# all write what the ledger says, so whoever has written all pieces of his may end it. Where Redis
# lost it between two pieces, `building` says another one or nothing, and the rest is not written.
# What was begun and never ended is joined by the next one, and not shown until then.
# Rows of a rebuild belong to no time: they are no rate.
WRITE = """
local stage, builder = ARGV[4], ARGV[5]
local building = stage ~= 'write'
local was_built = redis.call('HEXISTS', KEYS[1], 'built')
if was_built == 0 then
  local others = redis.call('HGET', KEYS[1], 'building')
  if stage == 'first' then
    if others then
      builder = others
    else
      redis.call('DEL', KEYS[1], KEYS[2])
      redis.call('HSET', KEYS[1], 'building', builder)
    end
  elseif not building or others ~= builder then
    return nil
  end
  if stage == 'end' then
    redis.call('HDEL', KEYS[1], 'building')
    redis.call('HSET', KEYS[1], 'built', 1)
  end
end
local names = cjson.decode(ARGV[3])
local index = {}
for j, name in ipairs(names) do index[name] = j end
local function is_ahead(one, other)
  local a, b = one[index.paged], other[index.paged]
  if a ~= b then return a > b end
  return one[index.deferred] < other[index.deferred]
end
local settled = 0
for i = 6, #ARGV, 3 do
  local old = redis.call('HGET', KEYS[2], ARGV[i])
  local before = old and cjson.decode(old) or nil
  local epoch, counts = tonumber(ARGV[i + 1]), cjson.decode(ARGV[i + 2])
  if not before or before.epoch < epoch
      or (before.epoch == epoch and not is_ahead(before.counts, counts)) then
    for j, name in ipairs(names) do
      local delta = counts[j] - (before and before.counts[j] or 0)
      if delta ~= 0 then redis.call('HINCRBY', KEYS[1], name, delta) end
      if name == 'paged' then settled = settled + delta end
      if name == 'deferred' then settled = settled - delta end
    end
    redis.call('HSET', KEYS[2], ARGV[i], cjson.encode({epoch = epoch, counts = counts}))
  end
end
if not building then
  local time = redis.call('TIME')
  local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
  local tau = tonumber(ARGV[2])
  local at = tonumber(redis.call('HGET', KEYS[1], 'at') or 0)
  local rate = 0
  if math.abs(now - at) < 3 * tau then  -- the clock may have gone back
    rate = tonumber(redis.call('HGET', KEYS[1], 'settled_rate'))
    rate = rate * math.exp(-math.max(0, now - at) / tau) + math.max(settled, 0) / tau
  else  -- it begins, or begins again: nobody knows how long these rows took
    redis.call('HSET', KEYS[1], 'since', string.format('%.6f', now))
  end
  redis.call('HSET', KEYS[1], 'at', string.format('%.6f', now))
  redis.call('HSET', KEYS[1], 'settled_rate', string.format('%.6f', rate))
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
return {was_built, redis.call('HGETALL', KEYS[1]), builder}
"""

# KEYS: bucket. ARGV: rows, rows per second, and in seconds: burst, late. Returns 0 when the rows
# were taken, else microseconds until they may be there. The same as LocalLimiter (engine/pace.py).
# The server's clock counts for everybody. What was used is used by now: an instant that is still to
# come is from before the clock went back. Older versions wrote the rate behind the instant.
TAKE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local cost = tonumber(ARGV[1]) / tonumber(ARGV[2]) * 1000000
local kept = redis.call('GET', KEYS[1])
local used_until = math.min(kept and tonumber(string.match(kept, '^%S+')) or now, now)
local memory = math.max(tonumber(ARGV[3]) * 1000000, cost + tonumber(ARGV[4]) * 1000000)
local after = math.max(used_until, now - memory) + cost
local wait = math.max(0, math.ceil(after - now))
if wait == 0 then used_until = after end
local keep = math.max(3600, math.ceil(wait / 1000000) + 60)
redis.call('SET', KEYS[1], string.format('%.0f', used_until), 'EX', keep)
return wait
"""

# KEYS: batches. ARGV: keep, caller, number of its call, then name and difference by turns.
# A call that is repeated, because its answer was lost, has the number of the one before.
COUNT = """
local mark = 'seq:' .. ARGV[2]
if tonumber(redis.call('HGET', KEYS[1], mark) or 0) >= tonumber(ARGV[3]) then return 0 end
for i = 4, #ARGV, 2 do redis.call('HINCRBYFLOAT', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], mark, ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
"""
