// An engine computes what a model thinks; the page knows nothing else of how that is done.
//
//   about                     what is known of the model
//   initial(asked)            the state before the first step: {y, z}, Float32Arrays
//   step(asked, state, say)   one supervision step; a promise of the state after it. `say` is told every thought
//                             as soon as it is there
//
// What is asked: {shape, rows, tokens, texts, puzzleId}. `shape` is how a board lies in the model's tensors (see
// the families): {cells, positions, vocabulary}. `rows` puzzles of one shape are thought about at once, as tokens
// and as texts; every array holds them one after the other. A thought is what a model says after one cycle:
//   {logits [rows, L, V], halt [rows], conflict [rows, L] or null, movedY [rows], movedZ [n][rows]}

const product = (sizes) => sizes.reduce((a, b) => a * b, 1);

class Engine {
  initial({ shape, rows }) {
    const positions = rows * product(shape.positions);
    const state = {};
    for (const [name, start] of Object.entries(this.about.start)) {
      const values = new Float32Array(positions * start.length);
      for (let at = 0; at < positions; at++) values.set(start, at * start.length);
      state[name] = values;
    }
    return state;
  }
}

// Calls ONNX Runtime in a worker, so that the page stays smooth while the network computes.
export class LocalEngine extends Engine {
  static async open({ folder }) {
    const engine = new LocalEngine();
    // A site's own index.html has begun one already, which loads the runtime while the scripts come in.
    engine.worker = globalThis.begun ?? new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    globalThis.begun = null;
    engine.waiting = new Map();
    engine.asked = 0;
    engine.worker.onmessage = ({ data }) => {
      const { resolve, reject, say } = engine.waiting.get(data.id);
      if (data.thought) return say(data.thought);
      engine.waiting.delete(data.id);
      data.error ? reject(new Error(data.error)) : resolve(data.result);
    };
    engine.worker.onerror = (event) => {
      for (const { reject } of engine.waiting.values()) reject(new Error(event.message || "the worker failed"));
      engine.waiting.clear();
    };
    engine.about = await engine.ask({ open: new URL(folder, document.baseURI).href });
    return engine;
  }

  close() {
    this.worker.terminate();
  }

  ask(message, say) {
    const id = this.asked++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, say });
      this.worker.postMessage({ id, ...message });
    });
  }

  step({ shape, rows, tokens, puzzleId }, state, say) {
    return this.ask({ shape, rows, tokens, puzzleId, state }, say);
  }
}

// Asks the server that the page comes from. What it says after a step is all there is: no cycles, no updates.
export class ServerEngine extends Engine {
  static async open({ name, server, about }) {
    return Object.assign(new ServerEngine(), { name, server, about });
  }

  async step({ rows, texts, puzzleId }, state, say) {
    const given = {};
    for (const [name, values] of Object.entries(state)) given[name] = await written(values);
    const body = JSON.stringify({ model: this.name, puzzles: texts, puzzle_id: puzzleId, state: given });
    const headers = { "Content-Type": "application/json" };
    const said = await (await fetched(this.server, { method: "POST", headers, body })).json();
    const after = {};
    for (const [name, text] of Object.entries(said.state)) after[name] = await read(text);
    const { y, z } = said.moved;
    say({ logits: await read(said.logits), halt: said.halt, conflict: null, movedY: y, movedZ: z ? [z] : [] });
    return after;
  }
}

const read = async (base64) => new Float32Array(await (await fetch(`data:;base64,${base64}`)).arrayBuffer());

function written(values) {
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1]);
    reader.readAsDataURL(new Blob([values]));
  });
}

let token = "";

// As `fetch`, with the token where the server asks for one; throws what the server says is wrong.
export async function fetched(address, { headers = {}, ...rest } = {}) {
  const known = token ? { ...headers, Authorization: `Bearer ${token}` } : headers;
  const answer = await fetch(address, { ...rest, headers: known });
  if (answer.ok) return answer;
  if (answer.status === 401) {
    token = prompt("This server wants a token:") ?? "";
    if (token) return fetched(address, { headers, ...rest });
  }
  const { error } = await answer.json().catch(() => ({ error: `the server answers ${answer.status}` }));
  throw new Error(error);
}
