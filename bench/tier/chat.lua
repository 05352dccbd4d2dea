-- wrk's side of `bench tier --rows wrk`: chats of random words, no prompt twice, answers streamed.
-- Arguments: file with one word a line, words of a prompt, tokens of an answer.

local words, count, answer = {}, 200, 128

function init(args)
  for line in io.lines(args[1]) do
    words[#words + 1] = line
  end
  count, answer = tonumber(args[2]), tonumber(args[3])
  math.randomseed(tonumber(args[4]))
end

function request()
  local text = {}
  for i = 1, count do
    text[i] = words[math.random(#words)]
  end
  local body = '{"messages":[{"role":"user","content":" ' .. table.concat(text, " ")
    .. '"}],"max_tokens":' .. answer
    .. ',"ignore_eos":true,"temperature":0,"stream":true,"stream_options":{"include_usage":true},'
    .. '"chat_template_kwargs":{"enable_thinking":false}}'
  return wrk.format("POST", "/v1/chat/completions", { ["Content-Type"] = "application/json" }, body)
end

function done(summary)
  local errors = summary.errors
  io.write(string.format(
    "RESULT %d %d %d\n",
    summary.requests,
    summary.bytes,
    errors.connect + errors.read + errors.write + errors.status
  ))
end
