// Search: the network decides, notices, and takes back. The policy is that of `trm.inference.search`, whose
// account of the reasons holds here too; this is one puzzle, and what the page shows of it.
//
// A branch is what may still stand in every cell, as bits; where one symbol is left it is given. It has the state
// that thinks on from it, and what the network said of it last. All others wait, the likeliest first.

import { sigmoid, Thinking } from "./thinking.js";

const FIRST = 6; // most steps before the first decision
const SURE = 0.9; // probability from which a symbol counts as known
const DOUBT = 5; // by how much a doubt lowers the logarithm of a branch's probability
const MOST_SAID = 4; // the most that a branch's own conflict counts in its rank
const KEPT = 128; // branches whose states are kept
const DECISIONS = 1000;

const single = (bits) => (bits & (bits - 1)) === 0;
const logSigmoid = (x) => (x > -30 ? -Math.log1p(Math.exp(-x)) : x);
const rank = ({ logP, conflict }) => -logP + Math.max(-MOST_SAID, Math.min(MOST_SAID, conflict));

export class Searching extends Thinking {
  constructor(engine, family, board, tokens) {
    super(engine, family, board, tokens);
    this.symbols = this.shape.positions.at(-1);
    this.first = this.shape.vocabulary - this.symbols; // the token of the first symbol
    this.houses = family.houses(board);
    const all = 2 ** this.symbols - 1;
    const allowed = Int32Array.from(tokens, (token) => (token < this.first ? all : 1 << (token - this.first)));
    this.current = [{ allowed, logP: 0 }]; // branches in flight: one alone, or the two of a decision
    this.parent = null; // what the two come from
    this.alone = 0; // steps of the one
    this.waiting = [];
    this.decisions = this.takenBack = 0;
    this.over = false;
  }

  ended() {
    return this.over;
  }

  canPoke() {
    return false;
  }

  get advice() {
    if (this.decisions >= DECISIONS) return `The search ends after ${DECISIONS} decisions.`;
    return "The search has left nothing out: there is no answer.";
  }

  // One supervision step of the branches in flight, and what follows from it.
  async step() {
    if (this.over) return;
    const branches = this.current;
    const asked = { ...this.asked, rows: branches.length, tokens: branches.flatMap((branch) => this.tokensOf(branch)) };
    const fresh = this.engine.initial({ ...this.asked, rows: 1 });
    const state = {};
    for (const name of Object.keys(fresh)) {
      state[name] = new Float32Array(branches.length * fresh[name].length);
      branches.forEach((branch, row) => state[name].set((branch.state ?? fresh)[name], row * fresh[name].length));
    }
    let thought;
    const after = await this.engine.step(asked, state, (each) => (thought = each));
    branches.forEach((branch, row) => this.note(branch, thought, after, row));
    this.steps += branches.length;
    const found = branches.find((branch) => branch.moved && branch.said.verdict.right);
    if (found) this.over = true;
    else this.goOn();
    this.show(found ?? branches.reduce((best, each) => (each.conflict < best.conflict ? each : best)));
  }

  // Tokens as the graphs take them: a negative one rules symbols out, bit by bit.
  tokensOf({ allowed }) {
    const all = 2 ** this.symbols - 1;
    return Array.from(allowed, (bits, cell) => {
      if (single(bits)) return this.first + Math.log2(bits);
      return bits === all ? this.tokens[cell] : -(all & ~bits);
    });
  }

  // What the network says of a branch.
  note(branch, thought, state, row) {
    const [N, V, L] = [this.symbols, this.shape.vocabulary, this.length];
    const part = (array, rows) => array.slice((row * array.length) / rows, ((row + 1) * array.length) / rows);
    const rows = this.current.length;
    const before = branch.said?.answer ?? branch.from;
    const { chance } = this.read({ logits: part(thought.logits, rows) }, { cells: null, tokens: null }, 0);
    const answer = new Uint8Array(L);
    let [candidate, score, undecided] = [0, -1, false];
    for (let cell = 0; cell < L; cell++) {
      const p = (symbol) => (branch.allowed[cell] & (1 << symbol) ? chance[cell * V + this.first + symbol] : -1);
      let [best, sum] = [0, 0];
      for (let symbol = 0; symbol < N; symbol++) {
        if (p(symbol) > p(best)) best = symbol;
        sum += Math.max(0, p(symbol));
      }
      answer[cell] = this.first + best;
      const likely = Math.max(0, p(best)) / Math.max(sum, 1e-9);
      const open = !single(branch.allowed[cell]);
      const worth = open && likely < SURE;
      undecided ||= worth;
      if (likely + open + 2 * worth > score) [candidate, score] = [cell * N + best, likely + open + 2 * worth];
    }
    const broken = this.broken(branch.allowed);
    Object.assign(branch, {
      state: Object.fromEntries(Object.entries(state).map(([name, array]) => [name, part(array, rows)])),
      moved: !before || answer.some((token, cell) => token !== before[cell]),
      broken,
      doubts: this.believesConflict(chance) + !undecided,
      conflict: broken ? Infinity : Math.max(-30, Math.min(30, Math.max(...part(thought.conflict, rows)))),
      candidate,
      chance: chance[Math.floor(candidate / N) * V + this.first + (candidate % N)],
      said: {
        chance,
        answer,
        halt: sigmoid(thought.halt[row]),
        movedY: thought.movedY[row],
        movedZ: thought.movedZ.map((each) => each[row]),
        verdict: this.family.verdict(this.board, this.tokens, answer),
      },
    });
  }

  // Whether what is given and ruled out cannot be completed, as far as single houses tell.
  broken(allowed) {
    const possible = Int32Array.from(allowed);
    for (const house of this.houses) {
      let given = 0;
      for (const cell of house) {
        if (!single(allowed[cell])) continue;
        if (given & allowed[cell]) return true;
        given |= allowed[cell];
      }
      for (const cell of house) if (!single(allowed[cell])) possible[cell] &= ~given;
    }
    const all = 2 ** this.symbols - 1;
    const empty = possible.some((bits) => !bits);
    return empty || this.houses.some((house) => house.reduce((bits, cell) => bits | possible[cell], 0) !== all);
  }

  // Whether the network is sure of a symbol twice in a house.
  believesConflict(chance) {
    return this.houses.some((house) => {
      const sure = Array(this.symbols).fill(0);
      for (const cell of house)
        for (let symbol = 0; symbol < this.symbols; symbol++)
          sure[symbol] += chance[cell * this.shape.vocabulary + this.first + symbol] >= SURE;
      return sure.some((count) => count > 1);
    });
  }

  // Think on or decide.
  goOn() {
    let left;
    if (!this.parent) {
      const [alone] = this.current;
      this.alone++;
      if (alone.moved && this.alone < FIRST && !alone.broken) return;
      left = alone.broken ? [] : [alone];
    } else {
      left = this.weigh();
      left.forEach((branch) => this.put(branch));
    }
    let likeliest = left[0];
    if (this.parent || !left.length) {
      this.waiting.sort((a, b) => rank(a) - rank(b));
      likeliest = this.waiting.shift();
    }
    if (!likeliest || this.decisions >= DECISIONS) {
      this.over = true;
      return;
    }
    this.takenBack += !left.includes(likeliest);
    if (!likeliest.state) [this.current, this.parent, this.alone] = [[likeliest], null, 0];
    else this.decide(likeliest);
  }

  // The branches of a decision that the rules allow, with their probabilities.
  weigh() {
    const [given, out] = this.current;
    const p = Math.min(Math.max(this.parent.chance, 1e-4), 1 - 1e-4);
    const odds = Math.log(p / (1 - p)) + out.conflict - given.conflict;
    given.logP = this.parent.logP + logSigmoid(odds) - DOUBT * given.doubts;
    out.logP = this.parent.logP + logSigmoid(-odds) - DOUBT * out.doubts;
    return this.current.filter((branch) => !branch.broken);
  }

  // Let a branch wait; the least likely of too many loses its state.
  put(branch) {
    this.waiting.push(branch);
    const kept = this.waiting.filter((each) => each.state);
    if (kept.length > KEPT) kept.reduce((least, each) => (rank(each) > rank(least) ? each : least)).state = null;
  }

  // A candidate both ways: given, and out.
  decide(branch) {
    const [cell, bit] = [Math.floor(branch.candidate / this.symbols), 1 << (branch.candidate % this.symbols)];
    const ways = [bit, branch.allowed[cell] & ~bit];
    this.current = ways.map((bits) => {
      return { allowed: branch.allowed.with(cell, bits), state: branch.state, from: branch.said.answer };
    });
    this.parent = branch;
    this.decisions++;
  }

  // A frame for the page: what the better of the branches in flight says.
  show({ said }) {
    const before = this.frames.at(-1)?.rollouts[0].answer;
    const changed = [...said.answer.keys()].filter((cell) => said.answer[cell] !== before?.[cell]);
    const where = `step ${this.steps}, ${this.decisions} decisions, ${this.takenBack} taken back`;
    const common = { step: this.steps, cycle: 0, whole: true, tokens: this.tokens, state: null };
    this.frames.push({ ...common, where, rollouts: [{ ...said, changed }] });
  }
}
