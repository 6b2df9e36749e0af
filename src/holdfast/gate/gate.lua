#!lua name=holdfast_gate

-- The gate: a fast filter over one event's stock. It forgets at any time and is loaded from PostgreSQL again.
--
-- Every function takes the same five keys, which share the event's hash tag:
--   KEYS[1]  {event}:gate        hash    epoch, state (loading | open), free:<tier> -> tickets neither held nor sold
--   KEYS[2]  {event}:users       hash    user -> tickets held and bought
--   KEYS[3]  {event}:holds       hash    hold key -> JSON [user, tier, quantity, tier, quantity, …]
--   KEYS[4]  {event}:leases      zset    hold key of a hold not yet settled -> when PostgreSQL must be asked (ms)
--   KEYS[5]  {event}:tombstones  zset    hold key that was released or forgotten -> remembered until (ms)
-- ARGV[1] is the epoch the caller knows. Another epoch, or a gate not open, is answered {'stale', epoch or ''}: nothing
-- was done. Redis >= 7.0 and Valkey >= 7.2.

-- `redis` is a name that Valkey knows too; what it offers while a library is loaded has no `call` yet.

-- Longer than a settle can be late: a lease lasts 30 s at most.
local TOMBSTONE_MS = 120000

local function now_ms()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function stale(keys, epoch, state)
    local known = redis.call('HMGET', keys[1], 'epoch', 'state')
    if known[1] ~= epoch or known[2] ~= state then
        return {'stale', known[1] or ''}
    end
    return nil
end

-- Moves the counters of one hold: sign -1 takes its tickets, +1 gives them back.
local function move(keys, hold, sign)
    local tickets = 0
    for i = 2, #hold, 2 do
        redis.call('HINCRBY', keys[1], 'free:' .. hold[i], sign * hold[i + 1])
        tickets = tickets + hold[i + 1]
    end
    redis.call('HINCRBY', keys[2], hold[1], -sign * tickets)
end

-- hold: [user, tier, quantity, …]. A key that has a tombstone stays gone; one that is unknown is taken anew.
local function settle(keys, key, hold)
    if redis.call('ZSCORE', keys[5], key) then
        return 0
    end
    if redis.call('HEXISTS', keys[3], key) == 1 then
        redis.call('ZREM', keys[4], key)
        return 0
    end
    redis.call('HSET', keys[3], key, cjson.encode(hold))
    move(keys, hold, -1)
    return 1
end

-- ask: [key, limit, user, tier, quantity, …]
local function reserve_one(keys, ask, deadline)
    local key = ask[1]
    if redis.call('HEXISTS', keys[3], key) == 1 then
        return 'replay'
    end
    local tickets = 0
    for i = 4, #ask, 2 do
        local free = redis.call('HGET', keys[1], 'free:' .. ask[i])
        if not free then
            return 'unknown'
        end
        if tonumber(free) < ask[i + 1] then
            return 'sold_out'
        end
        tickets = tickets + ask[i + 1]
    end
    local has = tonumber(redis.call('HGET', keys[2], ask[3]) or 0)
    if has + tickets > ask[2] then
        return 'user_limit_reached'
    end
    local hold = {}
    for i = 3, #ask do
        hold[i - 2] = ask[i]
    end
    redis.call('HSET', keys[3], key, cjson.encode(hold))
    redis.call('ZADD', keys[4], deadline, key)
    redis.call('ZREM', keys[5], key)
    move(keys, hold, -1)
    return 'held'
end

-- ARGV: epoch, lease in ms, JSON {settle: [[key, hold], …], orders: [ask, …]} -> {'ok', outcome, …} in the orders' order:
-- held, replay, sold_out, user_limit_reached or unknown (a tier that the gate does not have).
local function reserve(keys, args)
    local refused = stale(keys, args[1], 'open')
    if refused then
        return refused
    end
    local batch = cjson.decode(args[3])
    for _, item in ipairs(batch.settle) do
        settle(keys, item[1], item[2])
    end
    local answer = {'ok'}
    local deadline = now_ms() + args[2]
    for i, ask in ipairs(batch.orders) do
        answer[i + 1] = reserve_one(keys, ask, deadline)
    end
    return answer
end

-- ARGV: epoch, '1' to leave tombstones, JSON {settle: [[key, hold], …], release: [key, …], forget: [key, …]}
-- -> {'ok', taken anew, released}. Release gives a hold's tickets back; forget drops one that was sold.
local function finish(keys, args)
    local refused = stale(keys, args[1], 'open')
    if refused then
        return refused
    end
    local batch = cjson.decode(args[3])
    local taken, released = 0, 0
    local now = now_ms()
    for _, item in ipairs(batch.settle) do
        taken = taken + settle(keys, item[1], item[2])
    end
    local function remove(key, gives_back)
        local hold = redis.call('HGET', keys[3], key)
        if hold then
            if gives_back then
                move(keys, cjson.decode(hold), 1)
                released = released + 1
            end
            redis.call('HDEL', keys[3], key)
            redis.call('ZREM', keys[4], key)
        end
        if args[2] == '1' then
            redis.call('ZADD', keys[5], now + TOMBSTONE_MS, key)
        end
    end
    for _, key in ipairs(batch.release) do
        remove(key, true)
    end
    for _, key in ipairs(batch.forget) do
        remove(key, false)
    end
    redis.call('ZREMRANGEBYSCORE', keys[5], '-inf', now)
    return {'ok', taken, released}
end

-- ARGV: epoch -> {'ok'}. Empties the gate for a load; refused for an epoch older than the one it has.
local function load_begin(keys, args)
    local known = redis.call('HGET', keys[1], 'epoch')
    if known and tonumber(known) > tonumber(args[1]) then
        return {'stale', known}
    end
    for _, key in ipairs(keys) do
        redis.call('DEL', key)
    end
    redis.call('HSET', keys[1], 'epoch', args[1], 'state', 'loading')
    return {'ok'}
end

-- ARGV: epoch, JSON {users: [[user, tickets], …], holds: [[key, hold], …]} -> {'ok'}. The users' totals include the holds.
local function load_add(keys, args)
    local refused = stale(keys, args[1], 'loading')
    if refused then
        return refused
    end
    local batch = cjson.decode(args[2])
    for _, item in ipairs(batch.users) do
        redis.call('HSET', keys[2], item[1], item[2])
    end
    for _, item in ipairs(batch.holds) do
        redis.call('HSET', keys[3], item[1], cjson.encode(item[2]))
    end
    return {'ok'}
end

-- ARGV: epoch, JSON [[tier, free], …] -> {'ok'}. Opens the gate.
local function load_open(keys, args)
    local refused = stale(keys, args[1], 'loading')
    if refused then
        return refused
    end
    for _, item in ipairs(cjson.decode(args[2])) do
        redis.call('HSET', keys[1], 'free:' .. item[1], item[2])
    end
    redis.call('HSET', keys[1], 'state', 'open')
    return {'ok'}
end

-- ARGV: epoch, at most so many -> {'ok', key, hold, …}: leases that are over.
local function lapsed(keys, args)
    local refused = stale(keys, args[1], 'open')
    if refused then
        return refused
    end
    local answer = {'ok'}
    for _, key in ipairs(redis.call('ZRANGE', keys[4], '-inf', now_ms(), 'BYSCORE', 'LIMIT', 0, args[2])) do
        answer[#answer + 1] = key
        answer[#answer + 1] = redis.call('HGET', keys[3], key) or ''
    end
    return answer
end

redis.register_function('holdfast_reserve', reserve)
redis.register_function('holdfast_finish', finish)
redis.register_function('holdfast_load_begin', load_begin)
redis.register_function('holdfast_load_add', load_add)
redis.register_function('holdfast_load_open', load_open)
redis.register_function('holdfast_lapsed', lapsed)
