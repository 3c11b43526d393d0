// Puzzles whose houses (sets of cells) hold every symbol once: what clashes, and exact search.
//
// Symbols are numbers from 1; 0 is a cell to be filled.

// Cells that hold what another cell of some house holds.
export function clashes(houses, values) {
  const wrong = new Set();
  for (const house of houses) {
    const seen = new Map();
    for (const cell of house) {
      if (!values[cell]) continue;
      if (seen.has(values[cell])) wrong.add(cell).add(seen.get(values[cell]));
      seen.set(values[cell], cell);
    }
  }
  return wrong;
}

// Solutions by exact search, at most `limit`; null where that takes too long. `holds(grid, cell)` says whether
// what was just put into a cell agrees with the rest, beside the houses.
export function solutions({ values, symbols, houses, holds = () => true }, limit, budget = 200_000) {
  const grid = Uint8Array.from(values);
  const full = 2 ** symbols - 1;
  const used = new Int32Array(houses.length);
  const homes = Array.from(grid, (_, cell) => houses.flatMap((house, i) => (house.includes(cell) ? [i] : [])));
  const flip = (cell, bit) => {
    for (const house of homes[cell]) used[house] ^= bit;
  };
  grid.forEach((value, cell) => {
    if (value) flip(cell, 1 << (value - 1));
  });
  const found = [];
  const search = () => {
    if (budget-- < 0) return false;
    let best = -1;
    let fewest = symbols + 1;
    let options = 0;
    for (let cell = 0; cell < grid.length && fewest > 1; cell++) {
      if (grid[cell]) continue;
      const free = homes[cell].reduce((left, house) => left & ~used[house], full);
      let count = 0;
      for (let bits = free; bits; bits &= bits - 1) count++;
      if (count < fewest) [best, fewest, options] = [cell, count, free];
    }
    if (best < 0) {
      found.push(Uint8Array.from(grid));
      return found.length < limit;
    }
    for (let bits = options; bits; bits &= bits - 1) {
      const bit = bits & -bits;
      grid[best] = Math.log2(bit) + 1;
      flip(best, bit);
      const on = !holds(grid, best) || search();
      flip(best, bit);
      grid[best] = 0;
      if (!on) return false;
    }
    return true;
  };
  if (grid.every((value, cell) => !value || holds(grid, cell))) search();
  return budget < 0 && found.length < limit ? null : found;
}

// What is to be said of a puzzle before anybody thinks about it; `solution` as symbols.
export function examined(puzzle, clash) {
  if (clashes(puzzle.houses, puzzle.values).size) return { fine: false, words: `Contradictory clues: ${clash}.` };
  if (puzzle.symbols > 9) return { fine: true, words: "" };
  const found = solutions(puzzle, 2);
  if (found === null) return { fine: true, words: "The exact solver gave up counting solutions." };
  if (!found.length) return { fine: false, words: "The exact solver finds no solution: a clue must be wrong." };
  if (found.length > 1) return { fine: false, words: "The puzzle has several solutions: the network may not settle." };
  return { fine: true, words: "The exact solver finds one solution.", solution: found[0] };
}
