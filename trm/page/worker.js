// Runs a model's graphs with ONNX Runtime: the loop of a supervision step, one update after the other.

import * as ort from "./vendor/ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // more would need headers that static hosts do not send
ort.env.wasm.wasmPaths = new URL("vendor/", import.meta.url).href;

// A session of nothing fails, but not before the runtime is there: what takes longest begins before any model is known.
ort.InferenceSession.create(new Uint8Array()).catch(() => {});

// The exporter has left nothing to optimize: the attempt would only delay the first thought.
const OPTIONS = { executionProviders: ["wasm"], graphOptimizationLevel: "disabled" };

let about, sessions;

async function open(folder) {
  about = await (await fetch(new URL("model.json", folder))).json();
  const names = [...new Set(about.calls)];
  const files = names.map((name) => fetch(new URL(about.graphs[name].file, folder)));
  sessions = {};
  for (const [i, name] of names.entries()) {
    const graph = new Uint8Array(await (await files[i]).arrayBuffer());
    sessions[name] = await ort.InferenceSession.create(graph, OPTIONS);
  }
  return about;
}

// How far values moved, for every row: the root of the mean square of the differences.
function distance(before, after, rows) {
  const size = before.length / rows;
  return Array.from({ length: rows }, (_, row) => {
    let sum = 0;
    for (let at = row * size; at < (row + 1) * size; at++) sum += (after[at] - before[at]) ** 2;
    return Math.sqrt(sum / size);
  });
}

// One supervision step; what the model says is told after every cycle.
async function step({ shape, rows, tokens, puzzleId, state }, say) {
  const values = {
    tokens: new ort.Tensor("int64", BigInt64Array.from(tokens, BigInt), [rows, ...shape.cells]),
    puzzle_ids: new ort.Tensor("int64", new BigInt64Array(rows).fill(BigInt(puzzleId)), [rows]),
  };
  for (const [name, array] of Object.entries(state))
    values[name] = new ort.Tensor("float32", array, [rows, ...shape.positions, about.width]);
  let moved = [];
  for (const call of about.calls) {
    const graph = about.graphs[call];
    const given = Object.fromEntries(graph.inputs.map((name) => [name, values[name]]));
    const made = await sessions[call].run(given);
    const next = call === "answer" ? "y" : made.next_z ? "z" : "y";
    const far = distance(values[next].data, made[`next_${next}`].data, rows);
    for (const name of ["y", "z"]) if (made[`next_${name}`]) values[name] = made[`next_${name}`];
    if (call === "latent") moved.push(far);
    else {
      say({
        logits: made.logits.data,
        halt: Array.from(made.halt.data),
        conflict: made.conflict ? made.conflict.data : null,
        movedY: far,
        movedZ: moved,
      });
      moved = [];
    }
  }
  return Object.fromEntries(Object.keys(state).map((name) => [name, values[name].data]));
}

self.onmessage = async ({ data }) => {
  try {
    const say = (thought) => self.postMessage({ id: data.id, thought });
    const result = data.open ? await open(data.open) : await step(data, say);
    self.postMessage({ id: data.id, result });
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error.message || error) });
  }
};
