// Mazes: a shortest path from S to G. Tokens: 1 = wall, 2 = free, 3 = start, 4 = goal, 5 = path.

import { flash, node } from "../draw.js";
import { turned } from "./symmetry.js";

const CHARS = "?# SGo";
const [WALL, FREE, START, GOAL, PATH] = [1, 2, 3, 4, 5];
const UNIT = 20;

const board = (rows, columns) => ({ rows, columns, length: rows * columns });

function neighbours({ rows, columns }, cell) {
  const [r, c] = [Math.floor(cell / columns), cell % columns];
  const found = [];
  if (r > 0) found.push(cell - columns);
  if (r < rows - 1) found.push(cell + columns);
  if (c > 0) found.push(cell - 1);
  if (c < columns - 1) found.push(cell + 1);
  return found;
}

// Steps of a shortest way from S to G over cells that `open` admits; 0 where there is none.
function distance(board, tokens, open) {
  const start = tokens.indexOf(START);
  const far = new Int32Array(board.length).fill(-1);
  const queue = [start];
  far[start] = 0;
  for (let head = 0; head < queue.length; head++) {
    const cell = queue[head];
    if (tokens[cell] === GOAL) return far[cell];
    for (const next of neighbours(board, cell))
      if (far[next] < 0 && tokens[next] !== WALL && open(next)) {
        far[next] = far[cell] + 1;
        queue.push(next);
      }
  }
  return 0;
}

const count = (tokens, kind) => tokens.reduce((sum, token) => sum + (token === kind), 0);

export const maze = {
  title: "Maze",
  hint: "Choose what to draw, then click or drag; with the keyboard: arrows, then #, space, S or G.",
  paint: () => [
    ["goal", GOAL],
    ["start", START],
    ["wall", WALL],
    ["free", FREE],
  ],
  first: "goal",
  drags: (tool) => tool === "wall" || tool === "free",

  boardOf: ({ family }) => board(family.height, family.width),

  fits: (about, { rows, columns }) =>
    about.any_board || (about.family.height === rows && about.family.width === columns),

  shape(about, { rows, columns }) {
    if (!about.any_board) return { cells: about.cells, positions: about.positions, vocabulary: CHARS.length };
    return { cells: [rows, columns], positions: [rows, columns], vocabulary: CHARS.length };
  },

  parse(text) {
    let lines = text.replace(/^[\r\n]+|[\r\n]+$/g, "").split(/\r?\n|\//);
    if (lines.length === 1) {
      const side = Math.sqrt(lines[0].length);
      if (!Number.isInteger(side))
        throw new Error(`${lines[0].length} cells in one line make no square: write one line for every row`);
      lines = Array.from({ length: side }, (_, row) => lines[0].slice(row * side, (row + 1) * side));
    }
    const columns = Math.max(...lines.map((line) => line.length));
    if (lines.length < 2 || columns < 2) throw new Error("a maze needs at least two rows and two columns");
    if (lines.length > 60 || columns > 60) throw new Error("a maze on this page has at most 60 rows and columns");
    const chars = [...lines.map((line) => line.padEnd(columns)).join("")];
    const tokens = Uint8Array.from(chars, (char, at) => {
      const token = CHARS.indexOf(char === "." ? " " : char);
      if (token < 1)
        throw new Error(
          `“${char}” in row ${Math.floor(at / columns) + 1}, column ${(at % columns) + 1} is not a cell of a maze: use # . S G`,
        );
      return token === PATH ? FREE : token;
    });
    if (count(tokens, START) !== 1 || count(tokens, GOAL) !== 1)
      throw new Error("a maze has one S, where the way starts, and one G, where it ends");
    return { board: board(lines.length, columns), tokens };
  },

  text({ rows, columns }, tokens) {
    const chars = Array.from(tokens, (token) => (token === FREE ? "." : CHARS[token]));
    return Array.from({ length: rows }, (_, row) => chars.slice(row * columns, (row + 1) * columns).join("")).join("/");
  },

  blank({ length }) {
    const tokens = new Uint8Array(length).fill(FREE);
    [tokens[0], tokens[length - 1]] = [START, GOAL];
    return tokens;
  },

  typed(board, tokens, cell, key) {
    const kinds = { "#": WALL, " ": FREE, ".": FREE, Delete: FREE, Backspace: FREE, s: START, g: GOAL };
    const kind = kinds[key] ?? kinds[key.toLowerCase()];
    return kind ? this.painted(board, tokens, cell, kind) : null;
  },

  // The maze with a cell of another kind. S and G are moved, never lost.
  painted(_, tokens, cell, kind) {
    if (tokens[cell] === START || tokens[cell] === GOAL) return null;
    const next = Uint8Array.from(tokens);
    if (kind === START || kind === GOAL) next[tokens.indexOf(kind)] = FREE;
    next[cell] = kind;
    return next;
  },

  examine(board, tokens) {
    const shortest = distance(board, tokens, () => true);
    if (!shortest) return { fine: false, words: "No way joins S and G: open a wall." };
    return { fine: true, words: `Exact search: a shortest way has ${shortest} steps.`, shortest };
  },

  verdict(board, tokens, answer) {
    const wrong = new Set();
    for (let cell = 0; cell < board.length; cell++) {
      const kept = tokens[cell] === answer[cell] || (tokens[cell] === FREE && answer[cell] === PATH);
      if (!kept) wrong.add(cell);
    }
    const length = count(answer, PATH) + 1;
    const shortest = distance(board, tokens, () => true);
    const way = distance(board, tokens, (cell) => answer[cell] === PATH || tokens[cell] === GOAL);
    let words = `the way has ${length} steps, and none is shorter`;
    if (wrong.size) words = `${wrong.size} cells of the maze are not what they were`;
    else if (!way) words = "what is drawn does not join S and G";
    else if (way < length) words = `S and G are joined, but ${length - way} more cells are drawn than the way needs`;
    else if (way > shortest) words = `a way of ${way} steps, where ${shortest} would do`;
    return { right: !wrong.size && way === length && way === shortest && shortest > 0, wrong, words };
  },

  symmetry: (board, random) => ({ cells: turned(board, random), tokens: null }),

  draw(svg, { rows, columns, length }) {
    svg.setAttribute("viewBox", `-2 -2 ${columns * UNIT + 4} ${rows * UNIT + 4}`);
    const cells = Array.from({ length }, (_, at) => {
      const [x, y] = [(at % columns) * UNIT, Math.floor(at / columns) * UNIT];
      const back = node("rect", { x, y, width: UNIT, height: UNIT, class: "cell" }, svg);
      const dot = node("circle", { cx: x + UNIT / 2, cy: y + UNIT / 2, r: UNIT * 0.3, class: "dot", opacity: 0 }, svg);
      const letter = node("text", { x: x + UNIT / 2, y: y + UNIT / 2, "font-size": UNIT * 0.8, class: "clue" }, svg);
      return { back, dot, letter };
    });
    node("rect", { width: columns * UNIT, height: rows * UNIT, class: "line thick" }, svg);
    const V = CHARS.length;
    return {
      show(tokens, rollout) {
        cells.forEach(({ back, dot, letter }, at) => {
          const token = tokens[at];
          back.setAttribute("class", `cell ${["", "wall", "free", "end", "end", "free"][token]}`);
          back.classList.toggle("wrong", Boolean(rollout?.verdict.wrong.has(at)));
          letter.textContent = token === START ? "S" : token === GOAL ? "G" : "";
          const p = rollout && token !== START && token !== GOAL ? rollout.chance[at * V + PATH] : 0;
          dot.setAttribute("opacity", p < 0.02 ? 0 : p.toFixed(2));
        });
        if (rollout) flash(rollout.changed.filter((at) => tokens[at] === FREE).map((at) => cells[at].back));
      },
    };
  },

  words(_, tokens, rollout, cell) {
    if (tokens[cell] !== FREE) return ["", "wall", "", "start", "goal"][tokens[cell]];
    return rollout?.answer[cell] === PATH ? "free, on the way" : "free";
  },
};
