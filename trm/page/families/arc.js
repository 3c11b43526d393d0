// ARC: a grid goes in, a grid comes out, by a rule that a few pairs show. Tokens: 0 = pad, 1 = end, 2.. = colours 0..9.
//
// The rule is not in the grid: a model knows the tasks it was trained on by their names.

import { flash, node } from "../draw.js";

const PALETTE = ["#000000", "#0074d9", "#ff4136", "#2ecc40", "#ffdc00", "#aaaaaa", "#f012be", "#ff851b", "#7fdbff", "#870c25"];
const NAMES = ["black", "blue", "red", "green", "yellow", "grey", "magenta", "orange", "azure", "maroon"];
const [END, BLACK] = [1, 2];
const UNIT = 20;

// Tokens of a canvas with a grid in its corner, and a line of end tokens below it and right of it.
function toCanvas(grid, side) {
  const [height, width] = [grid.length, grid[0].length];
  if (height > side || width > side) throw new Error(`a grid of ${height}×${width} is larger than this model's ${side}×${side}`);
  const tokens = new Uint8Array(side * side);
  grid.forEach((row, r) => row.forEach((colour, c) => (tokens[r * side + c] = colour + BLACK)));
  for (let c = 0; height < side && c < width; c++) tokens[height * side + c] = END;
  for (let r = 0; width < side && r < height; r++) tokens[r * side + width] = END;
  return tokens;
}

// The largest rectangle of colours in the corner, the one with fewest rows of several.
function fromCanvas(tokens, side) {
  let [best, height, width, wide] = [0, 0, 0, side];
  for (let r = 0; r < side && wide; r++) {
    for (let c = 0; c < wide; c++) if (tokens[r * side + c] < BLACK) wide = c;
    if ((r + 1) * wide > best) [best, height, width] = [(r + 1) * wide, r + 1, wide];
  }
  return Array.from({ length: height }, (_, r) => Array.from(tokens.slice(r * side, r * side + width), (t) => t - BLACK));
}

function checked(grid, where) {
  const rows = Array.isArray(grid) && grid.length && grid.every((row) => Array.isArray(row) && row.length === grid[0].length && row.length);
  if (!rows || !grid.flat().every((cell) => Number.isInteger(cell) && cell >= 0 && cell < 10))
    throw new Error(`${where} is no grid: give rows of one length, of colours 0 to 9`);
  return grid;
}

// A task as it is published, also where it is the only one of a file of many.
function taskOf(text) {
  let values;
  try {
    values = JSON.parse(text);
  } catch (error) {
    throw new Error(`this is no JSON: ${error.message}`);
  }
  const several = Object.entries(values ?? {});
  if (!Array.isArray(values?.train) && several.length === 1) values = { name: several[0][0], ...several[0][1] };
  if (!Array.isArray(values?.train) || !values.test?.length) throw new Error("this JSON is no ARC task: it has no “train” and “test”");
  values.train.forEach(({ input, output }, i) => [input, output].map((grid) => checked(grid, `train pair ${i + 1}`)));
  const { input, output } = values.test[0];
  checked(input, "the test input");
  return { name: values.name ?? "", train: values.train, test: [output ? { input, output: checked(output, "the test output") } : { input }] };
}

function grid(svg, colours) {
  const [rows, columns] = [colours.length, colours[0].length];
  svg.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
  colours.forEach((row, y) => row.forEach((colour, x) => node("rect", { x, y, width: 1, height: 1, fill: PALETTE[colour] }, svg)));
}

export function arcOf(about) {
  const { side } = about.family;
  const boardOf = (task = null) => ({ rows: side, columns: side, length: side * side, task });
  return {
    title: "ARC",
    hint: "Choose a colour and paint the question, or type digits; the answer takes its place.",
    paint: () => [...NAMES.map((name, colour) => [name, BLACK + colour]), ["crop", 0]],
    first: "erase",
    drags: (tool) => NAMES.includes(tool),

    boardOf: () => boardOf(),
    fits: () => true,
    shape: () => ({ cells: about.cells, positions: about.positions, vocabulary: BLACK + PALETTE.length }),
    puzzleId: ({ task }) => about.ids?.[task?.name] ?? 0,

    parse(text) {
      if (text.trim().startsWith("{")) {
        const task = taskOf(text);
        return { board: boardOf(task), tokens: toCanvas(task.test[0].input, side) };
      }
      const rows = text.trim().split(/[\s/]+/);
      return { board: boardOf(), tokens: toCanvas(checked(rows.map((row) => [...row].map(Number)), "this"), side) };
    },

    text({ task }, tokens) {
      const input = fromCanvas(tokens, side);
      if (!task) return input.map((row) => row.join("")).join("/");
      const asked = JSON.stringify(input) === JSON.stringify(task.test[0].input) ? task.test[0] : { input };
      return JSON.stringify({ ...task, test: [asked] });
    },

    blank: () => toCanvas(Array.from({ length: Math.min(3, side) }, () => Array(Math.min(3, side)).fill(0)), side),

    typed(board, tokens, cell, key) {
      return /^[0-9]$/.test(key) ? this.painted(board, tokens, cell, BLACK + Number(key)) : null;
    },

    // A cell outside of the grid makes it larger; cropping lets it end at a cell.
    painted(_, tokens, cell, token) {
      const [r, c] = [Math.floor(cell / side), cell % side];
      let colours = fromCanvas(tokens, side);
      if (!token) colours = colours.slice(0, r + 1).map((row) => row.slice(0, c + 1));
      else {
        const [height, width] = [Math.max(r + 1, colours.length), Math.max(c + 1, colours[0].length)];
        colours = Array.from({ length: height }, (_, y) => Array.from({ length: width }, (_, x) => colours[y]?.[x] ?? 0));
        colours[r][c] = token - BLACK;
      }
      return toCanvas(colours, side);
    },

    examine(board) {
      if (!board.task) return { fine: true, words: "Paste a task as JSON: without one, nobody says what the rule is." };
      if (this.puzzleId(board)) return { fine: true, words: "The model has learned the rule of this task." };
      return { fine: true, words: "This model was not trained on this task, so its answer means little." };
    },

    verdict({ task }, tokens, answer) {
      const wrong = new Set();
      const known = task?.test[0];
      if (!known?.output || JSON.stringify(fromCanvas(tokens, side)) !== JSON.stringify(known.input))
        return { right: null, wrong, words: "the right answer is not known here" };
      const [said, right] = [fromCanvas(answer, side), known.output];
      for (let r = 0; r < side; r++) for (let c = 0; c < side; c++) if (said[r]?.[c] !== right[r]?.[c]) wrong.add(r * side + c);
      const words = wrong.size ? `${wrong.size} cells are not those of the task's answer` : "it is the task's answer";
      return { right: !wrong.size, wrong, words };
    },

    // Demonstrations, drawn beside the board: pictures with a word each.
    aside({ task }, tokens) {
      if (!task) return [];
      const pairs = task.train.flatMap(({ input, output }, i) => [[`pair ${i + 1}`, input], ["becomes", output]]);
      return [...pairs, ["the question", fromCanvas(tokens, side)]].map(([words, colours]) => ({ words, draw: (svg) => grid(svg, colours) }));
    },

    draw(svg, { length }) {
      svg.setAttribute("viewBox", `-2 -2 ${side * UNIT + 4} ${side * UNIT + 4}`);
      const cells = Array.from({ length }, (_, at) => {
        const [x, y] = [(at % side) * UNIT, Math.floor(at / side) * UNIT];
        return node("rect", { x, y, width: UNIT, height: UNIT, class: "cell framed" }, svg);
      });
      return {
        show(tokens, rollout) {
          const shown = rollout ? rollout.answer : tokens;
          const colours = fromCanvas(shown, side);
          cells.forEach((cell, at) => {
            const colour = colours[Math.floor(at / side)]?.[at % side];
            cell.style.fill = colour === undefined ? "" : PALETTE[colour];
            cell.classList.toggle("wrong", Boolean(rollout?.verdict.wrong.has(at)));
          });
          if (rollout) flash(rollout.changed.filter((at) => rollout.answer[at] >= BLACK).map((at) => cells[at]));
        },
      };
    },

    words(_, tokens, rollout, cell) {
      const token = (rollout ? rollout.answer : tokens)[cell];
      return token >= BLACK ? NAMES[token - BLACK] : "outside";
    },
  };
}
