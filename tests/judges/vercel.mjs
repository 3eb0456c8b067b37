// The AI SDK of Vercel: text, tools, structured output, streams, embeddings, by both of its providers, and errors.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, streamText, tool } from "ai";
import { z } from "zod";
import { asked, collected, counted, print, refusals } from "./judge.mjs";

const made = (apiKey) =>
  createOpenAICompatible({ name: "paymaster", baseURL: `${asked.address}/v1`, apiKey, fetch: counted, supportsStructuredOutputs: true });
const compatible = made(asked.key);
const openai = createOpenAI({ baseURL: `${asked.address}/v1`, apiKey: asked.key, fetch: counted });
const question = { model: compatible(asked.chat), prompt: "The weather in Kiel?" };
const weather = tool({ inputSchema: z.object({ city: z.string() }) });

const chat = await generateText(question);
const called = await generateText({ ...question, tools: { weather } });
const parsed = await generateText({
  ...question,
  output: Output.object({ schema: z.object({ city: z.string(), degrees: z.number() }) }),
});
const streamed = await collected(streamText(question).textStream, (text) => text);
const responded = await generateText({ model: openai(asked.responses), prompt: "Hello" });
const response = await collected(streamText({ model: openai(asked.responses), prompt: "Hello" }).textStream, (text) => text);
const { embeddings } = await embedMany({ model: compatible.embeddingModel(asked.chat), values: ["a", "b"] });

const ask = ({ key, model, headers }) => generateText({ model: made(key)(model), prompt: "Hello", headers, maxRetries: 0 });

print({
  chat: chat.text,
  tool: [called.toolCalls[0].toolName, called.toolCalls[0].input],
  parsed: parsed.output,
  streamed: streamed.join(""),
  response: responded.text,
  response_streamed: response.join(""),
  vectors: embeddings,
  refusals: await refusals(ask, (error) => ({
    status: error.statusCode,
    reason: JSON.parse(error.responseBody).error?.paymaster?.reason ?? null,
  })),
});
