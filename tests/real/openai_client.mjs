// The official client for Node, asked once: one JSON object on stdin, {baseURL, apiKey, how, body, options}, and the
// outcome as one JSON object on stdout. `how`: "object", "stream", "helper" (the client's own folding of a stream),
// "leave" (breaks off after the first text) or "models".
import OpenAI from 'openai'

async function readStdin() {
  let text = ''
  for await (const piece of process.stdin) text += piece
  return JSON.parse(text)
}

function ofObject(completion) {
  const [choice] = completion.choices
  return {
    id: completion.id,
    model: completion.model,
    conversation_id: completion.conversation_id,
    text: choice.message.content ?? '',
    reasoning: choice.message.reasoning_content ?? '',
    finish: choice.finish_reason,
    usage: completion.usage ?? null,
    tool_calls: (choice.message.tool_calls ?? []).map((call) => [call.id, call.function.name, call.function.arguments]),
    message: choice.message,
  }
}

async function ofStream(stream, seen, leave) {
  const calls = []
  for await (const chunk of stream) {
    seen.id ??= chunk.id
    seen.model ??= chunk.model
    seen.conversation_id ??= chunk.conversation_id
    seen.usage = chunk.usage ?? seen.usage
    for (const choice of chunk.choices) {
      seen.text += choice.delta.content ?? ''
      seen.reasoning += choice.delta.reasoning_content ?? ''
      seen.finish = choice.finish_reason ?? seen.finish
      for (const call of choice.delta.tool_calls ?? []) {
        calls[call.index] ??= [call.id, call.function.name, '']
        calls[call.index][2] += call.function.arguments ?? ''
      }
    }
    if (leave && seen.text) break
  }
  seen.tool_calls = calls
}

const { baseURL, apiKey, how, body, options } = await readStdin()
const client = new OpenAI({ baseURL, apiKey, timeout: 20_000 })
let outcome = { text: '', reasoning: '', finish: null, usage: null, tool_calls: [] }
try {
  if (how === 'models') {
    const ids = []
    for await (const model of client.models.list()) ids.push((await client.models.retrieve(model.id)).id)
    outcome = { ids }
  } else if (how === 'object') {
    outcome = ofObject(await client.chat.completions.create(body, options))
  } else if (how === 'helper') {
    outcome = ofObject(await client.chat.completions.stream(body, options).finalChatCompletion())
  } else {
    await ofStream(await client.chat.completions.create({ ...body, stream: true }, options), outcome, how === 'leave')
  }
} catch (error) {
  outcome.error = { name: error.constructor.name, status: error.status ?? null, code: error.code ?? null }
}
console.log(JSON.stringify(outcome))
