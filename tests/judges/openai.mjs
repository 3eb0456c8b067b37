// OpenAI's SDK: chat, tools, structured output, streams, Responses, embeddings, models, errors.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { asked, collected, counted, print, refusals } from "./judge.mjs";

const client = new OpenAI({ baseURL: `${asked.address}/v1`, apiKey: asked.key, fetch: counted });
const messages = [{ role: "user", content: "The weather in Kiel?" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const Weather = z.object({ city: z.string(), degrees: z.number() });

const { data: chat, response } = await client.chat.completions.create({ model: asked.chat, messages }).withResponse();
const called = await client.chat.completions.create({ model: asked.chat, messages, tools });
const call = called.choices[0].message.tool_calls[0];
const answered = await client.chat.completions.create({
  model: asked.chat,
  messages: [...messages, called.choices[0].message, { role: "tool", tool_call_id: call.id, content: "7 degrees" }],
  tools,
});
const parsed = await client.chat.completions.parse({
  model: asked.chat,
  messages,
  response_format: zodResponseFormat(Weather, "weather"),
});
const chunks = await client.chat.completions.create({ model: asked.chat, messages, stream: true });
const usage = { include_usage: true };
const metered = await client.chat.completions.create({
  model: asked.chat,
  messages,
  stream: true,
  stream_options: usage,
});
const replied = await client.responses.create({ model: asked.responses, input: "Hello" });
const events = await client.responses.create({ model: asked.responses, input: "Hello", stream: true });
const vectors = await client.embeddings.create({ model: asked.chat, input: ["a", "b"], encoding_format: "float" });
const base64 = await client.embeddings.create({ model: asked.chat, input: ["a", "b"] });

const ask = async ({ key, model, headers }) =>
  new OpenAI({ baseURL: `${asked.address}/v1`, apiKey: key, fetch: counted }).chat.completions.create(
    { model, messages },
    { headers },
  );

print({
  chat: chat.choices[0].message.content,
  paymaster: Boolean(response.headers.get("x-paymaster-call-id") && response.headers.get("x-paymaster-cost-usd")),
  tool: [call.function.name, JSON.parse(call.function.arguments)],
  answered: answered.choices[0].message.content,
  parsed: parsed.choices[0].message.parsed,
  streamed: (await collected(chunks, (chunk) => chunk.choices[0]?.delta.content ?? "")).join(""),
  metered: (await collected(metered, (chunk) => chunk.usage?.total_tokens)).at(-1),
  response: replied.output_text,
  response_streamed: (await collected(events, (event) => event.delta ?? "")).join(""),
  vectors: vectors.data.map((each) => each.embedding),
  of_base64: base64.data.map((each) => each.embedding),
  models: (await collected(client.models.list(), (model) => model.id)).includes(asked.chat),
  refusals: await refusals(ask, (error) => ({
    status: error.status,
    reason: error.error?.paymaster?.reason ?? null,
  })),
});
