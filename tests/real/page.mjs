// A page without a screen: the chat class behind `useChat` and the real transports, driven by lines of JSON.
// Each line is a command; its answer is one line: the state of the chat, or {"failed": …}.

import { createInterface } from "node:readline";
import { WorkflowChatTransport } from "@ai-sdk/workflow/client";
import { AbstractChat, DefaultChatTransport, lastAssistantMessageIsCompleteWithToolCalls, readUIMessageStream } from "ai";

class State {
  error = undefined;
  #status = "ready";
  changed = new EventTarget();
  snapshot = (value) => structuredClone(value);

  constructor(messages) {
    this.messages = messages;
  }

  get status() {
    return this.#status;
  }

  set status(status) {
    this.#status = status;
    this.changed.dispatchEvent(new Event("change"));
  }

  show(messages) {
    this.messages = messages;
    this.changed.dispatchEvent(new Event("change"));
  }

  pushMessage = (message) => this.show([...this.messages, this.snapshot(message)]);
  popMessage = () => this.show(this.messages.slice(0, -1));
  replaceMessage = (index, message) => this.show(this.messages.with(index, this.snapshot(message)));
}

class Chat extends AbstractChat {
  constructor({ messages, ...init }) {
    const state = new State(messages);
    super({ ...init, state });
    this.page = state;
  }
}

let chat, doing, requests, calls;

const textOf = (message) =>
  message?.role === "assistant" ? message.parts.map((part) => (part.type === "text" ? part.text : "")).join("") : "";

// WorkflowChatTransport does not send the chat's id by itself; this is how docs/ai-sdk.md makes it.
const named = {
  prepareSendMessagesRequest: ({ id, messages, trigger, body }) => ({ body: { ...body, id, messages, trigger } }),
};

function open({ transport, api, id, messages = [], auto = false, says = false, options = {} }) {
  requests = [];
  calls = [];
  const counted = (url, init) => {
    requests.push(`${init?.method ?? "GET"} ${url.slice(url.indexOf("/api/"))}`);
    return fetch(url, init);
  };
  const Transport = transport === "workflow" ? WorkflowChatTransport : DefaultChatTransport;
  chat = new Chat({
    id,
    messages,
    transport: new Transport({ api, fetch: counted, ...options, ...(says ? named : {}) }),
    onToolCall: ({ toolCall }) => void calls.push(toolCall),
    sendAutomaticallyWhen: auto ? lastAssistantMessageIsCompleteWithToolCalls : undefined,
  });
}

function shown() {
  const { status, error, messages } = chat;
  return { status, error: error && String(error.message), messages, requests, calls };
}

async function until(characters, status) {
  while (textOf(chat.lastMessage).length < characters || (status && chat.status !== status)) {
    await new Promise((resolve) => chat.page.changed.addEventListener("change", resolve, { once: true }));
  }
}

// A whole stream, as it came over the wire, through the package's own reader.
async function read(body) {
  const transport = new DefaultChatTransport({ fetch: async () => new Response(body) });
  const stream = await transport.sendMessages({ chatId: "c", messages: [], trigger: "submit-message" });
  const errors = [];
  let message;
  const told = readUIMessageStream({ stream, onError: (error) => errors.push(String(error.message)) });
  for await (message of told);
  return { message, errors };
}

const commands = {
  open,
  send: ({ text, body }) => void (doing = chat.sendMessage({ text }, { body })),
  resume: () => void (doing = chat.resumeStream()),
  regenerate: ({ body }) => void (doing = chat.regenerate({ body })),
  tool: (output) => void (doing = chat.addToolOutput(output)),
  until: ({ characters, status }) => until(characters, status),
  settle: () => doing,
  hangUp: () => chat.stop(),
  read: ({ stream }) => read(stream),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...fields } = JSON.parse(line);
  let answer;
  try {
    const told = await commands[name](fields);
    answer = name === "read" ? told : shown();
  } catch (error) {
    answer = { failed: String(error.stack) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
