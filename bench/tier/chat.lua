-- wrk's side of `bench tier`: chats of random words, no prompt twice, in no thread of any run.
-- Arguments: file with one word a line, words of a prompt, tokens of an answer, seed, share of streamed answers in percent,
-- mean pause of a connection before each request in milliseconds (0: none).

local words, count, answer, streamed = {}, 200, 128, 100
local sent = 0
local threads = 0

-- Runs in the main thread, once for each of the others: they share no variables, so each is told its number.
function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(args)
  for line in io.lines(args[1]) do
    words[#words + 1] = line
  end
  count, answer, streamed = tonumber(args[2]), tonumber(args[3]), tonumber(args[5])
  math.randomseed(tonumber(args[4]) * 1000 + number)
  local pause = tonumber(args[6])
  if pause > 0 then
    -- wrk asks for it where it exists. Exponential, so that requests come as from many who know nothing of each other.
    function delay()
      return math.floor(-pause * math.log(1 - math.random()) + 0.5)
    end
  end
end

function request()
  local text = {}
  for i = 1, count do
    text[i] = words[math.random(#words)]
  end
  sent = sent + 1
  local stream = '"stream":true,"stream_options":{"include_usage":true}'
  if sent * streamed % 100 >= streamed then
    stream = '"stream":false'
  end
  local body = '{"messages":[{"role":"user","content":" ' .. table.concat(text, " ")
    .. '"}],"max_tokens":' .. answer
    .. ',"ignore_eos":true,"temperature":0,' .. stream
    .. ',"chat_template_kwargs":{"enable_thinking":false}}'
  return wrk.format("POST", "/v1/chat/completions", { ["Content-Type"] = "application/json" }, body)
end

function done(summary)
  local errors = summary.errors
  io.write(string.format(
    "RESULT %d %d %d\n",
    summary.requests,
    summary.bytes,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout
  ))
end
