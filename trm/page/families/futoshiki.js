// Futoshiki: a Latin square with signs between neighbours. Tokens: 1 = blank, 2 = no sign, 3.. = < > ^ v, 7.. = digits.
//
// A board is a drawing of 2 N - 1 rows and columns: cells at even places, the signs between them.

import { drawCells } from "./cells.js";
import { clashes, examined } from "./exact.js";

const CHARS = "?.-<>^v123456789";
const [BLANK, NONE, LESS, MORE, UP, DOWN, ONE] = [1, 2, 3, 4, 5, 6, 7];

function board(side) {
  const rows = 2 * side - 1;
  const places = Array.from({ length: side * side }, (_, i) => 2 * Math.floor(i / side) * rows + 2 * (i % side));
  return { side, rows, columns: rows, length: rows * rows, places };
}

// What may stand at a place, as characters.
function allowed({ side, columns }, cell) {
  const [r, c] = [Math.floor(cell / columns) % 2, (cell % columns) % 2];
  if (r && c) return "-";
  return r ? "-^v" : c ? "-<>" : `.${CHARS.slice(ONE, ONE + side)}`;
}

const isCell = (board, at) => allowed(board, at).startsWith(".");
const digits = (board, tokens) => board.places.map((place) => Math.max(0, tokens[place] - ONE + 1));

function houses({ side }) {
  const line = [...Array(side).keys()];
  return line.flatMap((i) => [line.map((j) => i * side + j), line.map((j) => j * side + i)]);
}

// Pairs of cells of which the first holds the smaller digit.
function pairs({ side, columns, places }, tokens) {
  const found = [];
  for (let cell = 0; cell < side * side; cell++) {
    const right = (cell + 1) % side ? tokens[places[cell] + 1] : NONE;
    const below = cell + side < side * side ? tokens[places[cell] + columns] : NONE;
    if (right === LESS) found.push([cell, cell + 1]);
    if (right === MORE) found.push([cell + 1, cell]);
    if (below === UP) found.push([cell, cell + side]);
    if (below === DOWN) found.push([cell + side, cell]);
  }
  return found;
}

const lies = (values, [small, large]) => values[small] && values[large] && values[small] >= values[large];

function wrongPlaces(board, tokens, values) {
  const wrong = clashes(houses(board), values);
  for (const pair of pairs(board, tokens)) if (lies(values, pair)) wrong.add(pair[0]).add(pair[1]);
  return new Set([...wrong].map((cell) => board.places[cell]));
}

export const futoshiki = {
  title: "Futoshiki",
  hint: "Choose what a click does, or type: digits into cells, < > ^ v between them; a dot or Delete clears.",
  paint: ({ side }) => [...[...CHARS.slice(LESS, ONE + side)].map((char) => [char, CHARS.indexOf(char)]), ["clear", NONE]],
  first: "erase",

  boardOf: ({ family }) => board(family.side),
  fits: (about, { side }) => about.family.side === side,
  shape: (about, { side }) => ({ cells: about.cells, positions: about.positions, vocabulary: ONE + side }),

  parse(text) {
    const rows = text.replace(/^[\r\n/]+|[\s/]+$/g, "").split(/\r?\n|\//);
    const side = (rows.length + 1) / 2;
    if (!Number.isInteger(side) || side < 4 || side > 7 || rows.some((row) => row.trimEnd().length > rows.length))
      throw new Error(`${rows.length} rows make no Futoshiki: draw 7, 9, 11 or 13 rows, cells and the signs between them`);
    const made = board(side);
    const tokens = Uint8Array.from({ length: made.length }, (_, at) => {
      const [r, c] = [Math.floor(at / made.columns), at % made.columns];
      const may = allowed(made, at);
      const char = rows[r].padEnd(made.columns)[c];
      const plain = char === " " && may[0] === "-" ? "-" : char;
      if (!may.includes(plain)) throw new Error(`“${char}” in row ${r + 1}, column ${c + 1} cannot stand there: use ${may}`);
      return CHARS.indexOf(plain);
    });
    return { board: made, tokens };
  },

  text({ rows, columns }, tokens) {
    const chars = Array.from(tokens, (token) => CHARS[token]);
    return Array.from({ length: rows }, (_, row) => chars.slice(row * columns, (row + 1) * columns).join("")).join("/");
  },

  blank: (board) => Uint8Array.from({ length: board.length }, (_, at) => (isCell(board, at) ? BLANK : NONE)),

  typed(board, tokens, cell, key) {
    const clear = [".", "-", "0", "Delete", "Backspace", " "].includes(key);
    if (!clear && !allowed(board, cell).includes(key)) return null;
    return this.painted(board, tokens, cell, clear ? NONE : CHARS.indexOf(key));
  },

  painted(board, tokens, cell, token) {
    if (token === NONE) return tokens.with(cell, isCell(board, cell) ? BLANK : NONE);
    return allowed(board, cell).includes(CHARS[token]) ? tokens.with(cell, token) : null;
  },

  examine(board, tokens) {
    const all = pairs(board, tokens);
    const holds = (grid, cell) => !all.some((pair) => pair.includes(cell) && lies(grid, pair));
    const puzzle = { values: digits(board, tokens), symbols: board.side, houses: houses(board), holds };
    const exam = examined(puzzle, "a digit stands twice in a row or column");
    const solution = exam.solution && Uint8Array.from(tokens);
    exam.solution?.forEach((digit, cell) => (solution[board.places[cell]] = digit + ONE - 1));
    return { ...exam, solution };
  },

  verdict(board, tokens, answer) {
    const wrong = wrongPlaces(board, tokens, digits(board, answer));
    for (let at = 0; at < board.length; at++) {
      const open = tokens[at] === BLANK;
      if (open ? answer[at] < ONE : tokens[at] !== answer[at]) wrong.add(at);
    }
    const words = wrong.size ? `${wrong.size} places break the rules` : "rows and columns hold each digit once, and every sign is true";
    return { right: !wrong.size, wrong, words };
  },

  draw(svg, board) {
    const all = [...CHARS.slice(ONE, ONE + board.side)].map((char, i) => [ONE + i, char]);
    return drawCells(svg, board, {
      vocabulary: ONE + board.side,
      symbols: all,
      text: (token) => (token === UP ? "∧" : token === DOWN ? "∨" : token > NONE ? CHARS[token] : ""),
      clue: (token) => token !== BLANK,
      wrong: (tokens) => wrongPlaces(board, tokens, digits(board, tokens)),
      plain: (at) => !isCell(board, at),
    });
  },

  words(board, tokens, rollout, cell) {
    if (!isCell(board, cell)) return tokens[cell] > NONE ? `sign ${CHARS[tokens[cell]]}, given` : "no sign";
    if (tokens[cell] !== BLANK) return `${CHARS[tokens[cell]]}, given`;
    return rollout?.answer[cell] >= ONE ? `answer ${CHARS[rollout.answer[cell]]}` : "blank";
  },
};
