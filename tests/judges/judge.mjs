// What the judges have in common. Each is started as `node SDK.mjs ADDRESS KEY MODELS`, and prints what it saw as JSON;
// MODELS names a model for each kind of answer, and `refusals`: names with the key and the model of a request that fails.

const [address, key, models] = process.argv.slice(2);

export const asked = { address, key, ...JSON.parse(models) };

let sent = 0;

/** A fetch that counts the requests which an SDK sends. */
export function counted(...request) {
  sent += 1;
  return fetch(...request);
}

/** What each refusal was raised as, and how often the SDK sent the request. `ask` gets what the refusal names. */
export async function refusals(ask, said) {
  const seen = {};
  for (const [name, refusal] of Object.entries(asked.refusals)) {
    sent = 0;
    try {
      await ask(refusal);
      seen[name] = "an answer";
    } catch (error) {
      seen[name] = { error: error.constructor.name, ...said(error), sent };
    }
  }
  return seen;
}

export async function collected(stream, of) {
  const pieces = [];
  for await (const piece of stream) {
    pieces.push(of(piece));
  }
  return pieces;
}

export function print(seen) {
  console.log(JSON.stringify(seen));
}
