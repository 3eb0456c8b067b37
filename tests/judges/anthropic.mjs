// Anthropic's SDK: messages, tools, structured output, streams, betas, counted tokens, errors.
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import { asked, collected, counted, print, refusals } from "./judge.mjs";

const client = new Anthropic({ baseURL: asked.address, apiKey: asked.key, fetch: counted });
const messages = [{ role: "user", content: "The weather in Kiel?" }];
const question = { model: asked.messages, max_tokens: 50, messages };
const input_schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ name: "weather", input_schema }];
const Weather = z.object({ city: z.string(), degrees: z.number() });

const { data: message, response } = await client.messages.create(question).withResponse();
const called = await client.messages.create({ ...question, tools });
const call = called.content.find((block) => block.type === "tool_use");
const result = [{ type: "tool_result", tool_use_id: call.id, content: "7 degrees" }];
const answered = await client.messages.create({
  ...question,
  messages: [...messages, { role: "assistant", content: called.content }, { role: "user", content: result }],
  tools,
});
const parsed = await client.messages.parse({ ...question, output_config: { format: zodOutputFormat(Weather) } });
const stream = client.messages.stream(question);
const texts = await collected(stream, (event) => event.delta?.text ?? "");
const whole = await stream.finalMessage();
const beta = await client.beta.messages.create({ ...question, betas: ["context-management-2025-06-27"] });
const counting = await client.messages.countTokens({ model: asked.messages, messages });

const ask = async ({ key, model, headers }) =>
  new Anthropic({ baseURL: asked.address, apiKey: key, fetch: counted }).messages.create(
    { ...question, model },
    { headers },
  );

print({
  chat: message.content[0].text,
  paymaster: Boolean(response.headers.get("x-paymaster-call-id") && response.headers.get("x-paymaster-cost-usd")),
  tool: [call.name, call.input],
  answered: answered.content[0].text,
  parsed: parsed.parsed_output,
  streamed: texts.join(""),
  metered: whole.usage.input_tokens + whole.usage.output_tokens,
  beta: beta.content[0].text,
  counted: counting.input_tokens,
  refusals: await refusals(ask, (error) => ({
    status: error.status,
    reason: error.error?.paymaster?.reason ?? null,
  })),
});
