// An answer in the AI SDK's own words: npm install ai @ai-sdk/workflow, then
//
//     node ai_sdk.mjs http://127.0.0.1:8000 "Hello"
//
// In a React page the same transport goes to the hook: useChat({ transport }), and the parts are drawn as below.
import { WorkflowChatTransport } from "@ai-sdk/workflow/client";
import { readUIMessageStream } from "ai";

const [relay, question] = process.argv.slice(2);

// After a cut it comes back with the number of chunks it has: nothing is lost, and nothing is generated twice.
const transport = new WorkflowChatTransport({ api: `${relay}/api/chat` });

const stream = await transport.sendMessages({
  chatId: crypto.randomUUID(),
  trigger: "submit-message",
  messages: [{ id: "1", role: "user", parts: [{ type: "text", text: question }] }],
});

let shown = "";
for await (const { parts, metadata } of readUIMessageStream({ stream })) {
  const replaced = parts.findLastIndex((part) => part.type === "data-replace"); // moderation: what came before is void
  const text = parts.slice(replaced + 1).map((part) => (part.type === "text" ? part.text : "")).join("");
  process.stdout.write(text.startsWith(shown) ? text.slice(shown.length) : `\n${text}`);
  shown = text;
  if (metadata.reason) console.log(`\n[${metadata.error?.message ?? metadata.reason}, run ${metadata.run_id}]`);
}
