-- wrk's part of bench/reserve.py: each request is a purchase by the next buyer, under a key of its own.
-- Arguments: a file with one access token a line, the body, and what makes this run's keys unlike any other's.

local tokens = {}
local next_buyer = 0
made, other = 0, 0
local threads = {}


function setup(thread)
    thread:set('number', #threads)
    table.insert(threads, thread)
end

function init(args)
    for line in io.lines(args[1]) do
        tokens[#tokens + 1] = line
    end
    wrk.method = 'POST'
    wrk.path = '/orders/create'
    wrk.body = args[2]
    wrk.headers['Content-Type'] = 'application/json'
    run = args[3]
    next_buyer = number * math.floor(#tokens / 2)
    count = 0
end

function request()
    next_buyer = next_buyer % #tokens + 1
    count = count + 1
    wrk.headers['Authorization'] = 'Bearer ' .. tokens[next_buyer]
    wrk.headers['Idempotency-Key'] = run .. '-' .. number .. '-' .. count
    return wrk.format()
end

function response(status)
    if status == 201 then
        made = made + 1
    else
        other = other + 1
    end
end

function done(summary, latency)
    local all_made, all_other = 0, 0
    for _, thread in ipairs(threads) do
        all_made = all_made + thread:get('made')
        all_other = all_other + thread:get('other')
    end
    io.write(string.format(
        '{"made": %d, "other": %d, "seconds": %.3f, "p50_ms": %.2f, "p99_ms": %.2f, "socket_errors": %d}\n',
        all_made, all_other, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
        summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
