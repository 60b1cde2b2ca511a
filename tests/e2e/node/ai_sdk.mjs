// One call of the AI SDK, told on standard output: a JSON object a line for each part of the stream as it arrives.
// usage: node ai_sdk.mjs BASE_URL PROMPT [tools]; the model is AI_SDK_MODEL or kimi-for-coding
// HTTPS_PROXY is honoured, as by any program that uses undici's EnvHttpProxyAgent; NODE_EXTRA_CA_CERTS is node's own.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { stepCountIs, streamText, tool } from "ai";
import { EnvHttpProxyAgent, fetch as undiciFetch } from "undici";
import { z } from "zod";

const [baseURL, prompt, withTools] = process.argv.slice(2);
const dispatcher = new EnvHttpProxyAgent();
const provider = createOpenAICompatible({
  name: "kimi",
  baseURL,
  apiKey: "client-key",
  includeUsage: true,
  fetch: (url, init) => undiciFetch(url, { ...init, dispatcher }),
});
const tools = withTools && {
  add: tool({
    description: "adds two numbers",
    inputSchema: z.object({ a: z.number(), b: z.number() }),
    execute: async ({ a, b }) => String(a + b),
  }),
};
const say = (part) => process.stdout.write(JSON.stringify(part) + "\n");

const result = streamText({
  model: provider(process.env.AI_SDK_MODEL ?? "kimi-for-coding"),
  prompt,
  tools,
  stopWhen: stepCountIs(2),
  maxRetries: 0,
  onError: () => {}, // it comes as a part, too
});
for await (const part of result.fullStream) {
  if (part.type === "error") {
    const { message, statusCode, responseBody } = part.error;
    say({ type: "error", message, statusCode, responseBody });
  } else if (["text-delta", "reasoning-delta", "tool-call", "tool-result", "finish"].includes(part.type)) {
    say(part);
  }
}
await dispatcher.close();
