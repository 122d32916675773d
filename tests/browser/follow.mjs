// Asks and follows with client.js in Node. Argument: JSON {client, url, asks, headers?}. Prints one JSON line for each
// answer, and then lives as long as something is left that holds the process.
const { client, url, asks, headers, stopAfter } = JSON.parse(process.argv[2]);
const { Relay } = await import(client);
const relay = new Relay(url, { headers });

const follow = (run, began) => new Promise((done) => {
  const states = [];
  let pieces = 0;
  const follower = relay.follow(run, {
    token: () => ++pieces === stopAfter && relay.stop(run),
    state: (state) => states.push(state) && ["lost", "gone"].includes(state) && done(),
    end: ({ reason }) => {
      const { answer: { text }, intact } = follower;
      console.log(JSON.stringify({ reason, text, intact, states, pieces, ms: Date.now() - began }));
      done();
    },
  });
});

await Promise.all(asks.map(async (ask) => {
  const began = Date.now();
  try {
    await follow(await relay.start(ask), began);
  } catch ({ code, status, message }) {
    console.log(JSON.stringify({ code, status, message }));
  }
}));
