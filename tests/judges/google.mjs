// Google's SDK: content, tools, structured output, streams, embeddings, errors.
import { GoogleGenAI } from "@google/genai";
import { asked, collected, counted, print, refusals } from "./judge.mjs";

const made = (apiKey, options) =>
  new GoogleGenAI({ apiKey, httpOptions: { baseUrl: asked.address, fetch: counted, ...options } });
const client = made(asked.key, {});
const question = { model: asked.gemini, contents: "The weather in Kiel?" };
const parametersJsonSchema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ functionDeclarations: [{ name: "weather", parametersJsonSchema }] }];
const responseJsonSchema = {
  type: "object",
  properties: { city: { type: "string" }, degrees: { type: "number" } },
  required: ["city", "degrees"],
};

const content = await client.models.generateContent(question);
const called = await client.models.generateContent({ ...question, config: { tools } });
const structured = await client.models.generateContent({
  ...question,
  config: { responseMimeType: "application/json", responseJsonSchema },
});
const stream = await client.models.generateContentStream(question);
const vectors = await client.models.embedContent({ model: asked.gemini, contents: ["a", "b"] });

const ask = async ({ key, model, headers }) =>
  made(key, { headers, retryOptions: { attempts: 3 } }).models.generateContent({ ...question, model });

print({
  chat: content.text,
  tool: [called.functionCalls[0].name, called.functionCalls[0].args],
  parsed: JSON.parse(structured.text),
  streamed: (await collected(stream, (chunk) => chunk.text ?? "")).join(""),
  vectors: vectors.embeddings.map((each) => each.values),
  refusals: await refusals(ask, (error) => ({
    status: error.status,
    reason: JSON.parse(error.message).paymaster?.reason ?? null,
  })),
});
