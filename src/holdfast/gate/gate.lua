#!lua name=holdfast_gate

-- The gate: a fast filter over one event's stock. It forgets at any time and is loaded from PostgreSQL again.
--
-- Every function takes the same five keys, which share the event's hash tag:
--   KEYS[1]  {event}:gate        hash    epoch, state (loading | open), reign, free:<tier> -> tickets neither held nor sold
--   KEYS[2]  {event}:users       hash    user -> tickets held and bought
--   KEYS[3]  {event}:holds       hash    hold key -> JSON [user, tier, quantity, tier, quantity, …]
--   KEYS[4]  {event}:leases      zset    hold key of a hold not yet settled -> when PostgreSQL must be asked (ms)
--   KEYS[5]  {event}:tombstones  zset    hold key that was released or forgotten -> remembered until (ms)
-- ARGV[1] is the epoch the caller knows. Another epoch, another reign, or a gate not open, is answered
-- {'stale', epoch or ''}: nothing was done. Redis >= 7.0 and Valkey >= 7.2.
--
-- Replication is asynchronous, so that a replica that takes its master's place lacks what was written last: leases and
-- holds, which would be sold again and refused by PostgreSQL, and releases, whose tickets nobody could buy. Therefore
-- what is loaded where there are replicas is bound to the reign of its master: its replication id, which a server makes
-- anew whenever it becomes a master, be it by promotion or by a restart. Content of another reign is stale, whichever way
-- it came here: by replication, from a disk, with a slot that was moved, or with a master that is one for the second time.

-- `redis` is a name that Valkey knows too; what it offers while a library is loaded has no `call` yet.

-- Longer than a settle can be late: a lease lasts 30 s at most.
local TOMBSTONE_MS = 120000
-- A hold key begins with its user, in hex.
local USER_LETTERS = 32

local function now_ms()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function reign()
    return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end

local function is_foreign(bound_to)
    return bound_to and bound_to ~= reign()
end

-- Whether another server may ever have what is written here.
local function has_heirs()
    return string.find(redis.call('INFO', 'cluster'), 'cluster_enabled:1', 1, true)
        or string.find(redis.call('INFO', 'replication'), 'connected_slaves:[1-9]')
end

local function stale(keys, epoch, state)
    local known = redis.call('HMGET', keys[1], 'epoch', 'state', 'reign')
    if known[1] ~= epoch or known[2] ~= state or is_foreign(known[3]) then
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

-- Settles [[key, …], …]: a key that is held loses its lease; one that has a tombstone stays gone; one that is unknown is
-- taken anew, as the hold that hold_in finds in its item. Answers how many were.
local function settle_all(keys, settled, hold_in)
    if #settled == 0 then
        return 0
    end
    local names, held, taken = {}, {}, 0
    for i, item in ipairs(settled) do
        names[i] = item[1]
    end
    local found = redis.call('HMGET', keys[3], unpack(names))
    for i, item in ipairs(settled) do
        if found[i] then
            held[#held + 1] = item[1]
        elseif redis.call('HEXISTS', keys[3], item[1]) == 0 and not redis.call('ZSCORE', keys[5], item[1]) then
            local hold = hold_in(item)
            redis.call('HSET', keys[3], item[1], cjson.encode(hold))
            move(keys, hold, -1)
            taken = taken + 1
        end
    end
    if #held > 0 then
        redis.call('ZREM', keys[4], unpack(held))
    end
    return taken
end

-- The hold of a user who wants [limit, tier, quantity, …].
local function hold_of(key, want)
    local hold = {string.sub(key, 1, USER_LETTERS)}
    for i = 2, #want do
        hold[i] = want[i]
    end
    return hold
end

-- What one batch changes, kept here while it is decided, and written at its end with a call for each key.
local Batch = {}
Batch.__index = Batch

local function new_batch(keys, wants)
    local tails = {}
    for i, want in ipairs(wants) do
        -- A hold is written thousands of times with the same tail.
        tails[i] = cjson.encode({unpack(want, 2)}):sub(2)
    end
    return setmetatable({
        keys = keys, wants = wants, tails = tails, free = {}, taken = {}, tickets = {}, changed = {}, holds = {},
        names = {}, is_held = {},
    }, Batch)
end

-- Reads how many tickets these orders' users have.
function Batch:read_users(asked)
    local users = {}
    for i, ask in ipairs(asked) do
        users[i] = string.sub(ask[1], 1, USER_LETTERS)
    end
    for i, tickets in ipairs(redis.call('HMGET', self.keys[2], unpack(users))) do
        self.tickets[users[i]] = tonumber(tickets or 0)
    end
end

function Batch:free_of(tier)
    if self.free[tier] == nil then
        self.free[tier] = tonumber(redis.call('HGET', self.keys[1], 'free:' .. tier) or '') or false
    end
    return self.free[tier]
end

-- ask: [key, which of the wants]; known: what the gate holds under its key, or false.
function Batch:reserve(ask, known)
    local key, want, tickets = ask[1], self.wants[ask[2] + 1], 0
    if known or self.is_held[key] then
        return 'replay'
    end
    for i = 2, #want, 2 do
        local free = self:free_of(want[i])
        if not free then
            return 'unknown'
        end
        if free < want[i + 1] then
            return 'sold_out'
        end
        tickets = tickets + want[i + 1]
    end
    local user = string.sub(key, 1, USER_LETTERS)
    if self.tickets[user] + tickets > want[1] then
        return 'user_limit_reached'
    end
    self.tickets[user] = self.tickets[user] + tickets
    self.changed[user] = true
    for i = 2, #want, 2 do
        local tier, quantity = want[i], want[i + 1]
        self.free[tier] = self.free[tier] - quantity
        self.taken[tier] = (self.taken[tier] or 0) + quantity
    end
    self.is_held[key] = true
    self.names[#self.names + 1] = key
    self.holds[#self.holds + 1] = key
    self.holds[#self.holds + 1] = '["' .. user .. '",' .. self.tails[ask[2] + 1]
    return 'held'
end

function Batch:write(deadline)
    if #self.names == 0 then
        return
    end
    for tier, quantity in pairs(self.taken) do
        redis.call('HINCRBY', self.keys[1], 'free:' .. tier, -quantity)
    end
    local leases, users = {}, {}
    for i, key in ipairs(self.names) do
        leases[2 * i - 1] = deadline
        leases[2 * i] = key
    end
    for user in pairs(self.changed) do
        users[#users + 1] = user
        users[#users + 1] = self.tickets[user]
    end
    redis.call('HSET', self.keys[2], unpack(users))
    redis.call('HSET', self.keys[3], unpack(self.holds))
    redis.call('ZADD', self.keys[4], unpack(leases))
    redis.call('ZREM', self.keys[5], unpack(self.names))
end

-- ARGV: epoch, lease in ms, JSON {wants: [[limit per user, tier, quantity, …], …], settle: [ask, …], orders: [ask, …]},
-- an ask being [key, which of the wants, from 0] -> {'ok', outcome, …} in the orders' order: held, replay, sold_out,
-- user_limit_reached or unknown (a tier that the gate does not have). At most 2,000 of each, which is what a call's
-- arguments hold.
local function reserve(keys, args)
    local refused = stale(keys, args[1], 'open')
    if refused then
        return refused
    end
    local asked = cjson.decode(args[3])
    settle_all(keys, asked.settle, function(item)
        return hold_of(item[1], asked.wants[item[2] + 1])
    end)
    local names = {}
    for i, ask in ipairs(asked.orders) do
        names[i] = ask[1]
    end
    if #names == 0 then
        return {'ok'}
    end
    local known = redis.call('HMGET', keys[3], unpack(names))
    local batch, answer = new_batch(keys, asked.wants), {'ok'}
    batch:read_users(asked.orders)
    for i, ask in ipairs(asked.orders) do
        answer[i + 1] = batch:reserve(ask, known[i])
    end
    batch:write(now_ms() + args[2])
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
    local released, taken = 0, settle_all(keys, batch.settle, function(item)
        return item[2]
    end)
    local now = now_ms()
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
    if has_heirs() then
        redis.call('HSET', keys[1], 'reign', reign())
    end
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

-- -> {'ok', epoch or '', state, holds, leases, tier, free, …}; what another reign left here is foreign, not open.
local function state(keys)
    local fields = redis.call('HGETALL', keys[1])
    local named, free = {}, {}
    for i = 1, #fields, 2 do
        named[fields[i]] = fields[i + 1]
        if string.sub(fields[i], 1, 5) == 'free:' then
            free[#free + 1] = string.sub(fields[i], 6)
            free[#free + 1] = fields[i + 1]
        end
    end
    local is = is_foreign(named.reign) and 'foreign' or named.state or ''
    return {'ok', named.epoch or '', is, redis.call('HLEN', keys[3]), redis.call('ZCARD', keys[4]), unpack(free)}
end

redis.register_function('holdfast_reserve', reserve)
redis.register_function('holdfast_finish', finish)
redis.register_function('holdfast_load_begin', load_begin)
redis.register_function('holdfast_load_add', load_add)
redis.register_function('holdfast_load_open', load_open)
redis.register_function('holdfast_lapsed', lapsed)
redis.register_function('holdfast_state', state)
