// Asks and follows with client.js in Node. Argument: JSON {client, url, asks}, and if need be {headers, stopAfter: number
// of tokens, through: where to follow, if not at url}. Prints one JSON line for each answer, and then lives as long as
// something is left that holds the process.
const { client, url, asks, headers, stopAfter, through = url } = JSON.parse(process.argv[2]);
const { Relay } = await import(client);
const asking = new Relay(url, { headers }), relay = new Relay(through, { headers });

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
    await follow(await asking.start(ask), began);
  } catch ({ code, status, message }) {
    console.log(JSON.stringify({ code, status, message }));
  }
}));
