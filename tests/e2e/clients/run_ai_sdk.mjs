// Drives ai with @ai-sdk/openai-compatible: chats, tools and an object. Settings: see parts.py.
import * as ai from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { z } from "zod";

const { generateText, streamText, tool, Output } = ai;
const { BASE_URL, API_KEY, MODEL, PARTS, EXPECT = "" } = process.env;
const connect = createOpenAICompatible({
  name: "market",
  baseURL: `${BASE_URL}/v1`,
  apiKey: API_KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = connect(MODEL);
const prompt = "What is the weather in Riyadh?";
const cities = [];
const tools = {
  get_weather: tool({
    description: "The weather of a city",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      cities.push(city);
      return "sunny";
    },
  }),
};
const stopWhen = (ai.isStepCount ?? ai.stepCountIs)(4);

async function streamed(options) {
  let text = "";
  let failure;
  const onError = ({ error }) => (failure = error);
  for await (const piece of streamText({ model, prompt, ...options, onError }).textStream) text += piece;
  if (failure) throw failure;
  return text;
}

const parts = {
  generate: async () => (await generateText({ model, prompt, maxOutputTokens: 64 })).text,
  stream: () => streamed({ maxOutputTokens: 64 }),
  tools: async () => (await generateText({ model, prompt, tools, stopWhen })).text,
  tools_stream: () => streamed({ tools, stopWhen }),
  object: async () => {
    const output = Output.object({ schema: z.object({ city: z.string() }) });
    return (await generateText({ model, prompt, output })).output;
  },
};

for (const part of PARTS.split(" ")) {
  cities.length = 0;
  try {
    const found = await parts[part]();
    if (!found) throw new Error("nothing came");
    if (typeof found === "string" && !found.includes(EXPECT)) throw new Error(`unexpected text: ${found}`);
    if (part.startsWith("tools") && !cities.length) throw new Error("the tool was not called");
    console.log(`${part}: ${JSON.stringify(found)}`);
  } catch (error) {
    process.exitCode = 1;
    console.log(`${part}: FAILED`, error);
  }
}
