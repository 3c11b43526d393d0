// Sudoku of any box shape. Tokens: 0 = padding, 1 = blank, 2.. = the digits 1...

import { flash, node } from "../draw.js";

const BLANK = 1;
const DIGITS = "123456789ABCDEFGHIJKLMNOP";
const UNIT = 36; // of a cell, in the picture

function boxOf(side) {
  for (let rows = Math.floor(Math.sqrt(side)); rows > 1; rows--) if (side % rows === 0) return [rows, side / rows];
  return null;
}

function board(boxRows, boxCols) {
  const side = boxRows * boxCols;
  return { boxRows, boxCols, side, rows: side, columns: side, length: side * side };
}

// Sets of cells that hold every digit once, by board.
function houses({ boxRows, boxCols, side }) {
  const all = [];
  for (let i = 0; i < side; i++) {
    const line = [...Array(side).keys()];
    all.push(line.map((j) => i * side + j), line.map((j) => j * side + i));
    const top = Math.floor(i / boxRows) * boxRows;
    const left = (i % boxRows) * boxCols;
    all.push(line.map((j) => (top + Math.floor(j / boxCols)) * side + left + (j % boxCols)));
  }
  return all;
}

// Cells that hold a digit twice in some house.
function clashes(board, tokens) {
  const wrong = new Set();
  for (const house of houses(board)) {
    const seen = new Map();
    for (const cell of house) {
      if (tokens[cell] <= BLANK) continue;
      if (seen.has(tokens[cell])) wrong.add(cell).add(seen.get(tokens[cell]));
      seen.set(tokens[cell], cell);
    }
  }
  return wrong;
}

// Solutions by exact search, at most `limit`; null where that takes too long.
function solutions(board, tokens, limit, budget = 200_000) {
  const { boxRows, boxCols, side } = board;
  const grid = Uint8Array.from(tokens, (token) => Math.max(0, token - 1));
  const full = 2 ** side - 1;
  const [rows, columns, boxes] = [0, 1, 2].map(() => new Int32Array(side));
  const box = (r, c) => Math.floor(r / boxRows) * boxRows + Math.floor(c / boxCols);
  const flip = (r, c, bit) => {
    rows[r] ^= bit;
    columns[c] ^= bit;
    boxes[box(r, c)] ^= bit;
  };
  grid.forEach((digit, cell) => {
    if (digit) flip(Math.floor(cell / side), cell % side, 1 << (digit - 1));
  });
  const found = [];
  const search = () => {
    if (budget-- < 0) return false;
    let best = -1;
    let fewest = side + 1;
    let options = 0;
    for (let cell = 0; cell < grid.length && fewest > 1; cell++) {
      if (grid[cell]) continue;
      const [r, c] = [Math.floor(cell / side), cell % side];
      const free = full & ~(rows[r] | columns[c] | boxes[box(r, c)]);
      let count = 0;
      for (let bits = free; bits; bits &= bits - 1) count++;
      if (count < fewest) [best, fewest, options] = [cell, count, free];
    }
    if (best < 0) {
      found.push(Uint8Array.from(grid, (digit) => digit + 1));
      return found.length < limit;
    }
    const [r, c] = [Math.floor(best / side), best % side];
    for (let bits = options; bits; bits &= bits - 1) {
      const bit = bits & -bits;
      grid[best] = Math.log2(bit) + 1;
      flip(r, c, bit);
      const on = search();
      flip(r, c, bit);
      grid[best] = 0;
      if (!on) return false;
    }
    return true;
  };
  search();
  return budget < 0 && found.length < limit ? null : found;
}

const shuffled = (count, random) => {
  const order = [...Array(count).keys()];
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
};

export const sudoku = {
  title: "Sudoku",
  hint: "Choose what a click does, or type digits into the grid; a dot, 0 or Delete clears a cell.",
  paint: ({ side }) => [...[...DIGITS.slice(0, side)].map((digit, i) => [digit, i + 2]), ["clear", BLANK]],
  first: "erase",

  painted: (_, tokens, cell, token) => tokens.with(cell, token),

  boardOf: ({ family }) => board(family.box_rows, family.box_cols),

  fits(about, { boxRows, boxCols }) {
    return about.any_board || (about.family.box_rows === boxRows && about.family.box_cols === boxCols);
  },

  shape(about, { boxRows, boxCols, side }) {
    if (!about.any_board) return { cells: about.cells, positions: about.positions, vocabulary: side + 2 };
    const cells = [boxCols, boxRows, boxRows, boxCols];
    return { cells, positions: [...cells, side], vocabulary: side + 2 };
  },

  // Text in the forms that `trm solve` takes; throws what is wrong with it.
  parse(text) {
    const chars = [...text.replace(/[|+\-_\s│┃─━┼╋┌┐└┘├┤┬┴╔╗╚╝║═╬╠╣╦╩]/g, "").toUpperCase()];
    const side = Math.sqrt(chars.length);
    const box = Number.isInteger(side) ? boxOf(side) : null;
    if (!box || side > 25) throw new Error(`${chars.length} cells make no Sudoku: give 16, 36, 81, 256 ... characters`);
    const tokens = chars.map((char, at) => {
      if (char === "." || char === "0") return BLANK;
      const digit = DIGITS.slice(0, side).indexOf(char);
      if (digit < 0)
        throw new Error(
          `“${char}” in row ${Math.floor(at / side) + 1}, column ${(at % side) + 1} is not a digit of a ${side}×${side} Sudoku`,
        );
      return digit + 2;
    });
    return { board: board(...box), tokens: Uint8Array.from(tokens) };
  },

  text: (_, tokens) => Array.from(tokens, (token) => (token > BLANK ? DIGITS[token - 2] : ".")).join(""),

  blank: ({ length }) => new Uint8Array(length).fill(BLANK),

  // The puzzle after a key was pressed on a cell; null for a key that means nothing.
  typed({ side }, tokens, cell, key) {
    const digit = DIGITS.slice(0, side).indexOf(key.toUpperCase());
    const clear = [".", "0", "Delete", "Backspace", " "].includes(key);
    if (key.length > 1 && !clear) return null;
    if (digit < 0 && !clear) return null;
    return tokens.with(cell, clear ? BLANK : digit + 2);
  },

  // What is to be said of a puzzle before anybody thinks about it.
  examine(board, tokens) {
    const wrong = clashes(board, tokens);
    if (wrong.size) return { fine: false, words: "Contradictory clues: a digit stands twice in a row, column or box." };
    if (board.side > 9) return { fine: true, words: "" };
    const found = solutions(board, tokens, 2);
    if (found === null) return { fine: true, words: "The exact solver gave up counting solutions." };
    if (!found.length) return { fine: false, words: "The exact solver finds no solution: a clue must be wrong." };
    if (found.length > 1) return { fine: false, words: "The puzzle has several solutions: the network may not settle." };
    return { fine: true, words: "The exact solver finds one solution.", solution: found[0] };
  },

  // Whether an answer is right, by the rules alone.
  verdict(board, tokens, answer) {
    const wrong = clashes(board, answer);
    for (let cell = 0; cell < board.length; cell++)
      if (answer[cell] <= BLANK || (tokens[cell] > BLANK && tokens[cell] !== answer[cell])) wrong.add(cell);
    const words = wrong.size ? `${wrong.size} cells break the rules` : "every row, column and box holds each digit once";
    return { right: !wrong.size, wrong, words };
  },

  // Renamed digits; permuted bands, stacks, and lines in them.
  symmetry({ boxRows, boxCols, side, length }, random) {
    const lines = (groups, size) =>
      shuffled(groups, random).flatMap((group) => shuffled(size, random).map((line) => group * size + line));
    const [rows, columns] = [lines(boxCols, boxRows), lines(boxRows, boxCols)];
    const cells = Array.from({ length }, (_, at) => rows[Math.floor(at / side)] * side + columns[at % side]);
    return { cells, tokens: [0, BLANK, ...shuffled(side, random).map((digit) => digit + 2)] };
  },

  // A picture that is kept up to date by `show(tokens, rollout or null)`.
  draw(svg, { side, boxRows, boxCols, length }) {
    const size = side * UNIT;
    svg.setAttribute("viewBox", `-2 -2 ${size + 4} ${size + 4}`);
    const across = Math.ceil(Math.sqrt(side));
    const cells = Array.from({ length }, (_, at) => {
      const [x, y] = [(at % side) * UNIT, Math.floor(at / side) * UNIT];
      const group = node("g", { transform: `translate(${x} ${y})` }, svg);
      const back = node("rect", { width: UNIT, height: UNIT, class: "cell" }, group);
      const marks = Array.from({ length: side }, (_, digit) => {
        const place = (UNIT - 4) / across;
        const mark = node("text", { class: "mark", "font-size": place * 0.9 }, group);
        mark.setAttribute("x", 2 + ((digit % across) + 0.5) * place);
        mark.setAttribute("y", 2.5 + (Math.floor(digit / across) + 0.5) * place);
        mark.textContent = DIGITS[digit];
        return mark;
      });
      const large = node("text", { x: UNIT / 2, y: UNIT / 2, "font-size": UNIT * 0.62 }, group);
      return { back, marks, large };
    });
    for (let i = 0; i <= side; i++) {
      const at = i * UNIT;
      node("path", { d: `M${at} 0V${size}`, class: i % boxCols ? "line" : "line thick" }, svg);
      node("path", { d: `M0 ${at}H${size}`, class: i % boxRows ? "line" : "line thick" }, svg);
    }
    const V = side + 2;
    return {
      show(tokens, rollout) {
        const wrong = rollout ? rollout.verdict.wrong : clashes({ side, boxRows, boxCols }, tokens);
        cells.forEach(({ back, marks, large }, at) => {
          const clue = tokens[at] > BLANK;
          const best = clue ? tokens[at] : rollout ? rollout.answer[at] : BLANK;
          const sure = clue ? 1 : rollout ? rollout.chance[at * V + best] : 0;
          const settled = sure > 0.9 && best > BLANK;
          large.textContent = settled ? DIGITS[best - 2] : "";
          large.setAttribute("class", clue ? "clue" : "answer");
          back.classList.toggle("wrong", wrong.has(at) && (clue || settled));
          back.classList.toggle("given", clue);
          marks.forEach((mark, digit) => {
            const p = !settled && rollout ? rollout.chance[at * V + digit + 2] : 0;
            mark.setAttribute("opacity", p < 0.02 ? 0 : (0.15 + 0.85 * p).toFixed(2));
          });
        });
        if (rollout) flash(rollout.changed.filter((at) => tokens[at] <= BLANK).map((at) => cells[at].back));
      },
    };
  },

  // A cell in words.
  words(_, tokens, rollout, cell) {
    if (tokens[cell] > BLANK) return `${DIGITS[tokens[cell] - 2]}, given`;
    if (!rollout || rollout.answer[cell] <= BLANK) return "blank";
    return `answer ${DIGITS[rollout.answer[cell] - 2]}`;
  },
};
