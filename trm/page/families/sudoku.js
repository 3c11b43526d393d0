// Sudoku of any box shape. Tokens: 0 = padding, 1 = blank, 2.. = the digits 1...

import { drawCells } from "./cells.js";
import { clashes, examined } from "./exact.js";
import { shuffled } from "./symmetry.js";

const BLANK = 1;
const DIGITS = "123456789ABCDEFGHIJKLMNOP";

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

// Digits as numbers from 1; 0 is blank.
const digits = (tokens) => tokens.map((token) => Math.max(0, token - BLANK));

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

  houses,

  examine(board, tokens) {
    const puzzle = { values: digits(tokens), symbols: board.side, houses: houses(board) };
    const exam = examined(puzzle, "a digit stands twice in a row, column or box");
    return { ...exam, solution: exam.solution?.map((digit) => digit + BLANK) };
  },

  // Whether an answer is right, by the rules alone.
  verdict(board, tokens, answer) {
    const wrong = clashes(houses(board), digits(answer));
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

  draw(svg, board) {
    return drawCells(svg, board, {
      vocabulary: board.side + 2,
      symbols: [...DIGITS.slice(0, board.side)].map((digit, i) => [i + 2, digit]),
      text: (token) => (token > BLANK ? DIGITS[token - 2] : ""),
      clue: (token) => token > BLANK,
      wrong: (tokens) => clashes(houses(board), digits(tokens)),
      boxes: { rows: board.boxRows, columns: board.boxCols },
    });
  },

  // A cell in words.
  words(_, tokens, rollout, cell) {
    if (tokens[cell] > BLANK) return `${DIGITS[tokens[cell] - 2]}, given`;
    if (!rollout || rollout.answer[cell] <= BLANK) return "blank";
    return `answer ${DIGITS[rollout.answer[cell] - 2]}`;
  },
};
