-- SPDX-License-Identifier: GPL-2.0
-- For wrk in L2: files of /srv in an order of its own, whose contents are checked. Prints a line of
-- JSON in memory-check's form: files with wrong contents, pages that came, and of the requests how
-- many there were and how long they took. Arguments: the number of files, the pages of each one.
local threads = {}

function setup(thread)
	thread:set("seed", #threads + 1)
	table.insert(threads, thread)
end

function init(args)
	files, pages = tonumber(args[1]), tonumber(args[2])
	wrong, visited = 0, 0
	math.randomseed(seed)
end

function request()
	return wrk.format("GET", "/" .. math.random(files))
end

-- Each page of a file is a line of its own, again and again; see init.
local function is_right(file, body)
	if not file or #body ~= pages * 4096 then
		return false
	end
	for page = 1, pages do
		local line = string.format("%05d%02d\n", file, page)

		if body:sub(page * 4096 - 4095, page * 4096) ~= line:rep(512) then
			return false
		end
	end
	return true
end

function response(status, headers, body)
	if status ~= 200 or not is_right(tonumber((headers["X-File"] or ""):sub(2)), body) then
		wrong = wrong + 1
	end
	visited = visited + pages
end

function done(summary, latency)
	local wrong, visited, errors = 0, 0, summary.errors

	for _, thread in ipairs(threads) do
		wrong = wrong + thread:get("wrong")
		visited = visited + thread:get("visited")
	end
	wrong = wrong + errors.connect + errors.read + errors.write + errors.timeout
	io.write(string.format('SERVED {"mode":"server","visited":%d,"wrong":%d,"seconds":%.2f,' ..
			       '"requests":%d,"request_p50":%d,"request_p99":%d}\n',
			       visited, wrong, summary.duration / 1e6, summary.requests,
			       latency:percentile(50), latency:percentile(99)))
end
