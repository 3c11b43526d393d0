// One puzzle being thought about: the loop over supervision steps, and everything that it left behind.
//
// Rollouts are rows of one batch. The first goes the plain way; each other sees the puzzle under a symmetry of
// its own, which is undone on what it says, or with noise on its state before every step.

const KEPT_BYTES = 256e6; // states of older steps are dropped beyond this

// Standard normals (Box and Muller).
export function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

export const sigmoid = (x) => 1 / (1 + Math.exp(-x));

export class Thinking {
  constructor(engine, family, board, tokens, { rollouts = 1, noise = 0, symmetries = true } = {}) {
    Object.assign(this, { engine, family, board, rollouts, noise });
    this.shape = family.shape(engine.about, board);
    this.length = board.length;
    const plain = { cells: null, tokens: null };
    this.ways = Array.from({ length: rollouts }, (_, row) =>
      row && symmetries && family.symmetry ? family.symmetry(board, Math.random) : plain,
    );
    this.frames = []; // one for every cycle, of all rollouts
    this.steps = 0;
    this.pokes = []; // steps at which somebody interfered
    this.ask(tokens);
    this.state = engine.initial(this.asked);
  }

  // Change the puzzle; the state stays.
  ask(tokens) {
    this.tokens = tokens;
    const seen = this.ways.map((way) =>
      tokens.map((_, cell) => {
        const token = tokens[way.cells ? way.cells[cell] : cell];
        return way.tokens ? way.tokens[token] : token;
      }),
    );
    this.asked = {
      shape: this.shape,
      rows: this.rollouts,
      tokens: seen.flatMap((row) => [...row]),
      texts: seen.map((row) => this.family.text(this.board, row)),
      puzzleId: this.family.puzzleId?.(this.board) ?? 0,
    };
  }

  // One supervision step of all rollouts; `arrived` is called after every frame.
  async step(arrived = () => {}) {
    const state = this.noise ? this.disturbed(this.noise, 1) : this.state;
    const first = this.frames.length;
    this.steps++;
    this.state = await this.engine.step(this.asked, state, (thought) => {
      this.frames.push(this.frame(thought, this.frames.length - first));
      arrived();
    });
    Object.assign(this.frames.at(-1), { whole: true, state: this.state });
    this.forget();
  }

  frame(thought, cycle) {
    const before = this.frames.at(-1);
    const rollouts = this.ways.map((way, row) => {
      const seen = this.read(thought, way, row);
      const old = before && before.rollouts[row].answer;
      const changed = [];
      for (let cell = 0; cell < this.length; cell++)
        if (!old || old[cell] !== seen.answer[cell]) changed.push(cell);
      return {
        ...seen,
        changed,
        halt: sigmoid(thought.halt[row]),
        movedY: thought.movedY[row],
        movedZ: thought.movedZ.map((each) => each[row]),
        verdict: this.family.verdict(this.board, this.tokens, seen.answer),
      };
    });
    return { step: this.steps, cycle, whole: false, tokens: this.tokens, rollouts, state: null };
  }

  // What one rollout says, in the cells and symbols of the puzzle as it was asked.
  read({ logits }, way, row) {
    const V = this.shape.vocabulary;
    const chance = new Float32Array(this.length * V);
    const answer = new Uint8Array(this.length);
    for (let cell = 0; cell < this.length; cell++) {
      const from = (row * this.length + cell) * V;
      const to = way.cells ? way.cells[cell] : cell;
      let most = -Infinity;
      for (let token = 0; token < V; token++) most = Math.max(most, logits[from + token]);
      let sum = 0;
      for (let token = 0; token < V; token++) sum += Math.exp(logits[from + token] - most);
      let best = -1;
      for (let token = 0; token < V; token++) {
        const asked = way.tokens ? way.tokens[token] : token;
        const there = way.tokens ? logits[from + asked] : logits[from + token];
        const p = Math.exp(there - most) / sum;
        chance[to * V + token] = p;
        if (p > best) [best, answer[to]] = [p, token];
      }
      // Training says nothing of what is outside of a puzzle.
      if (this.engine.about.same_cells && !this.tokens[to]) answer[to] = 0;
    }
    return { chance, answer };
  }

  // Drop states of old steps where there are too many.
  forget() {
    const bytes = Object.values(this.state).reduce((sum, array) => sum + array.byteLength, 0);
    const whole = this.frames.filter((frame) => frame.state);
    while (whole.length * bytes > KEPT_BYTES) whole.shift().state = null;
  }

  // Whether the plain rule for stopping holds in some rollout: it says "right", and stands still.
  get settled() {
    const whole = this.frames.filter((frame) => frame.whole);
    const [now, before] = [whole.at(-1), whole.at(-2)];
    if (!now || !before || this.pokes.at(-1) === this.steps) return false;
    return now.rollouts.some((rollout, row) => {
      const still = rollout.answer.every((token, cell) => token === before.rollouts[row].answer[cell]);
      return rollout.halt > 0.5 && still;
    });
  }

  get solved() {
    const last = this.frames.at(-1);
    return Boolean(this.pokes.at(-1) !== this.steps && last?.whole && last.rollouts.some((rollout) => rollout.verdict.right));
  }

  // Whether to stop by itself; `beyond` is to think on although an answer stands.
  ended(depth, beyond) {
    return this.steps >= depth || (!beyond && (this.solved || this.settled));
  }

  // Which rollout's answer counts, and why.
  choose(frame) {
    const rollouts = frame.rollouts;
    const right = rollouts.findIndex((rollout) => rollout.verdict.right);
    if (right >= 0) return { row: right, why: "the rules confirm its answer" };
    const surest = rollouts.reduce((best, each, row) => (each.halt > rollouts[best].halt ? row : best), 0);
    const chance = (100 * rollouts[surest].halt).toFixed(0);
    return { row: surest, why: `no answer is confirmed, and it is the surest (${chance} %)` };
  }

  // Pokes: each acts on the state after a frame, and what came later is forgotten.

  canPoke(frame) {
    return !frame || Boolean(frame.state);
  }

  rewind(frame) {
    const at = frame ? this.frames.indexOf(frame) : -1;
    this.frames.length = at + 1;
    this.steps = frame ? frame.step : 0;
    this.state = frame ? frame.state : this.engine.initial(this.asked);
    this.pokes = [...this.pokes.filter((step) => step < this.steps), this.steps];
  }

  // Forget what y says of a cell, in every rollout.
  erase(frame, cell) {
    this.rewind(frame);
    const y = Float32Array.from(this.state.y);
    const start = this.engine.about.start.y;
    const prefix = this.engine.about.prefix;
    const row = y.length / this.rollouts / start.length;
    const each = (row - prefix) / this.length; // positions of a cell
    this.ways.forEach((way, k) => {
      const place = way.cells ? way.cells.indexOf(cell) : cell;
      for (let i = 0; i < each; i++) y.set(start, (k * row + prefix + place * each + i) * start.length);
    });
    this.state = { ...this.state, y };
  }

  addNoise(frame, strength) {
    this.rewind(frame);
    this.state = this.disturbed(strength, 0);
  }

  // The state with noise on it, in all rollouts from `first` on.
  disturbed(strength, first) {
    const noisy = {};
    for (const [name, array] of Object.entries(this.state)) {
      noisy[name] = Float32Array.from(array);
      if (name === "y" && !first && this.state.z) continue; // a poke is one of the latent
      const from = (first * array.length) / this.rollouts;
      for (let at = from; at < array.length; at++) noisy[name][at] += strength * normal();
    }
    return noisy;
  }
}
