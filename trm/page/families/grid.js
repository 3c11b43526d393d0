// Grids of one's own: what a model says of them is all that is known. Tokens: 0 = outside, then its symbols.

import { drawCells } from "./cells.js";
import { clashes, examined } from "./exact.js";
import { shuffled, turned } from "./symmetry.js";

export function gridOf(about) {
  const { height, width, symbols, blanks, permute, dihedral, rules } = about.family;
  const board = { rows: height, columns: width, length: height * width };
  const spaced = symbols.some((symbol) => [...symbol].length > 1);
  const vocabulary = symbols.length + 1;
  const token = (symbol) => symbols.indexOf(symbol) + 1;
  const blank = new Set(blanks.map(token));
  const filling = symbols.map((symbol, i) => [i + 1, symbol]).filter(([each]) => !blank.has(each));
  const renamed = permute.map(token).sort((a, b) => a - b);
  const boxes = rules.boxes ?? null;
  const ruled = rules.rows !== "any" || rules.columns !== "any" || boxes !== null;
  const houses = ruled ? housesOf() : null;
  const open = (each) => (blank.size ? blank.has(each) : ruled ? !renamed.includes(each) && each > 0 : each > 0);
  const clue = (each) => !open(each);
  const values = (tokens) => tokens.map((each) => renamed.indexOf(each) + 1);

  function housesOf() {
    const all = [];
    const cells = (count, cell) => Array.from({ length: count }, (_, i) => cell(i));
    if (rules.rows !== "any") for (let r = 0; r < height; r++) all.push(cells(width, (c) => r * width + c));
    if (rules.columns !== "any") for (let c = 0; c < width; c++) all.push(cells(height, (r) => r * width + c));
    for (let r = 0; boxes && r < height; r += boxes[0])
      for (let c = 0; c < width; c += boxes[1])
        all.push(cells(boxes[0] * boxes[1], (i) => (r + Math.floor(i / boxes[1])) * width + c + (i % boxes[1])));
    return all;
  }

  return {
    title: "Grid",
    hint: "Choose what a click does, or type a symbol into a cell.",
    paint: () => symbols.map((symbol) => [symbol, token(symbol)]),
    first: "erase",
    houses: houses && (() => houses),

    boardOf: () => board,
    fits: () => true,
    shape: () => ({ cells: about.cells, positions: about.positions, vocabulary }),

    parse(text) {
      let rows = text.trim().split(/[\r\n/]+/).map((row) => row.trim());
      rows = rows.map((row) => (spaced || /\s/.test(row) ? row.split(/\s+/) : [...row]));
      if (rows.length === 1 && rows[0].length === board.length && height > 1)
        rows = Array.from({ length: height }, (_, r) => rows[0].slice(r * width, (r + 1) * width));
      if (rows.some((row) => row.length !== rows[0].length)) throw new Error("the rows are not of one length");
      const small = rows.length > height || rows[0].length > width;
      if (small || (ruled && (rows.length !== height || rows[0].length !== width)))
        throw new Error(`${rows.length} rows of ${rows[0].length} cells do not fit this model's grid of ${height}×${width}`);
      const tokens = new Uint8Array(board.length);
      rows.forEach((row, r) =>
        row.forEach((symbol, c) => {
          if (!token(symbol)) throw new Error(`“${symbol}” in row ${r + 1}, column ${c + 1} is no symbol of this grid: ${symbols.join(" ")}`);
          tokens[r * width + c] = token(symbol);
        }),
      );
      return { board, tokens };
    },

    // What stands in the rectangle around all that is not outside.
    text(_, tokens) {
      const filled = [...tokens.keys()].filter((at) => tokens[at]);
      const [bottom, right] = [Math.max(0, ...filled.map((at) => Math.floor(at / width))), Math.max(0, ...filled.map((at) => at % width))];
      const row = (r) => Array.from(tokens.slice(r * width, r * width + right + 1), (each) => symbols[each - 1] ?? "?");
      return Array.from({ length: bottom + 1 }, (_, r) => row(r).join(spaced ? " " : "")).join("/");
    },

    blank: ({ length }) => new Uint8Array(length).fill(blank.size ? [...blank][0] : 1),

    typed(_, tokens, cell, key) {
      const clear = ["Delete", "Backspace"].includes(key) ? [...blank][0] : 0;
      const found = clear || token(key) || token(key.toUpperCase()) || token(key.toLowerCase());
      return found ? tokens.with(cell, found) : null;
    },

    painted: (_, tokens, cell, each) => tokens.with(cell, each),

    examine(_, tokens) {
      if (!houses || filling.length !== renamed.length) return { fine: true, words: "" };
      const puzzle = { values: values(tokens), symbols: renamed.length, houses };
      const exam = examined(puzzle, "a symbol stands twice where the rules want it once");
      return { ...exam, solution: exam.solution?.map((value) => renamed[value - 1]) };
    },

    verdict(_, tokens, answer) {
      const wrong = new Set(houses ? clashes(houses, values(answer)) : []);
      for (let cell = 0; cell < board.length; cell++) {
        const kept = open(tokens[cell]) ? !blank.has(answer[cell]) : tokens[cell] === answer[cell];
        if (!kept || (houses && !renamed.includes(answer[cell]))) wrong.add(cell);
      }
      if (wrong.size) return { right: false, wrong, words: `${wrong.size} cells break the rules` };
      if (!houses) return { right: null, wrong, words: "no rule is known that tells right from wrong" };
      return { right: true, wrong, words: "every symbol stands once where the rules want it" };
    },

    symmetry(_, random) {
      const names = Uint8Array.from({ length: vocabulary }, (_, each) => each);
      shuffled(renamed.length, random).forEach((to, from) => (names[renamed[from]] = renamed[to]));
      return { cells: dihedral ? turned(board, random) : null, tokens: names };
    },

    draw(svg) {
      return drawCells(svg, board, {
        vocabulary,
        symbols: filling,
        text: (each) => (each && !blank.has(each) ? symbols[each - 1] : ""),
        clue,
        wrong: (tokens) => (houses ? clashes(houses, values(tokens)) : new Set()),
        boxes: { rows: boxes?.[0] ?? height, columns: boxes?.[1] ?? width },
      });
    },

    words(_, tokens, rollout, cell) {
      if (!tokens[cell]) return "outside";
      if (clue(tokens[cell])) return `${symbols[tokens[cell] - 1]}, given`;
      return rollout ? `answer ${symbols[rollout.answer[cell] - 1] ?? "?"}` : symbols[tokens[cell] - 1];
    },
  };
}
