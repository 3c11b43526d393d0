// An engine computes what a model thinks; the page knows nothing else of how that is done.
//
//   about                              what the model's model.json says
//   initial(shape, rows)               the state before the first step: {y, z}, Float32Arrays
//   step(shape, rows, tokens, state)   one supervision step; a promise of {thoughts, state}
//   close()
//
// `shape` is how a board lies in the model's tensors (see the families): {cells, positions, vocabulary}.
// `rows` puzzles of one shape are thought about at once; every array holds them one after the other.
// A thought is what a model says after one cycle:
//   {logits [rows, L, V], halt [rows], conflict [rows, L] or null, movedY [rows], movedZ [n][rows]}
//
// This one calls ONNX Runtime in a worker, so that the page stays smooth while the network computes. One
// that asks a server has to offer the same five names.

const product = (sizes) => sizes.reduce((a, b) => a * b, 1);

export class LocalEngine {
  static async open(folder) {
    const engine = new LocalEngine();
    engine.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    engine.waiting = new Map();
    engine.asked = 0;
    engine.worker.onmessage = ({ data }) => {
      const { resolve, reject } = engine.waiting.get(data.id);
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

  ask(message) {
    const id = this.asked++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, ...message });
    });
  }

  initial(shape, rows) {
    const positions = rows * product(shape.positions);
    const state = {};
    for (const [name, start] of Object.entries(this.about.start)) {
      const values = new Float32Array(positions * start.length);
      for (let at = 0; at < positions; at++) values.set(start, at * start.length);
      state[name] = values;
    }
    return state;
  }

  step(shape, rows, tokens, state) {
    return this.ask({ shape, rows, tokens, state });
  }

  close() {
    this.worker.terminate();
  }
}
