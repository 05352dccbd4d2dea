// The official Node client against a deployment: zod helpers, runTools, responses, streams. `node check.mjs`, with its
// address in QWENSERVE_URL; ends with 0 where all of it works.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const model = "qwen3-tiny";
const client = new OpenAI({ baseURL: `${process.env.QWENSERVE_URL}/v1`, apiKey: "none", maxRetries: 0 });
const Place = z.object({ kind: z.enum(["town", "city"]), size: z.enum(["large", "small"]) });
const question = "Extract kind and size as JSON: kind is town, size is large.";
const messages = [{ role: "user", content: question }];

async function parsedChat() {
  const answer = await client.chat.completions.parse({
    model, messages, max_tokens: 600, response_format: zodResponseFormat(Place, "place"),
  });
  Place.parse(answer.choices[0].message.parsed);
}

async function streamedChat() {
  const stream = client.chat.completions.stream({
    model, messages, max_tokens: 600, response_format: zodResponseFormat(Place, "place"),
  });
  const answer = await stream.finalChatCompletion();
  Place.parse(answer.choices[0].message.parsed);
}

async function ranTools() {
  const asked = [];
  const weather = zodFunction({
    name: "get_current_weather",
    description: "Get the current weather in a given location",
    parameters: z.object({ location: z.string(), unit: z.enum(["celsius", "fahrenheit"]) }),
    function: (given) => {
      asked.push(given.location);
      return { temperature: 22, unit: "celsius", description: "sunny" };
    },
  });
  for (const stream of [false, true]) {
    const runner = client.chat.completions.runTools({
      model, stream, tools: [weather], max_tokens: 600, temperature: 0,
      messages: [{ role: "user", content: "What's the weather like in Boston today?" }],
    });
    assert.ok((await runner.finalContent()).trim());
  }
  assert.equal(asked.length, 2);
  assert.ok(asked.every((location) => location.includes("Boston")));
}

async function responses() {
  const form = { format: zodTextFormat(Place, "place") };
  const parsed = await client.responses.parse({ model, input: question, max_output_tokens: 600, text: form });
  Place.parse(parsed.output_parsed);
  const stream = client.responses.stream({ model, input: question, max_output_tokens: 600, text: form });
  const kinds = [];
  for await (const event of stream) kinds.push(event.type);
  Place.parse((await stream.finalResponse()).output_parsed);
  assert.equal(kinds[0], "response.created");
  assert.equal(kinds.at(-1), "response.completed");
}

for (const check of [parsedChat, streamedChat, ranTools, responses]) {
  await check();
  console.log(`node: ${check.name} passed`);
}
