// The families that the page knows: their rules and how they look, one module each.

import { arcOf } from "./arc.js";
import { futoshiki } from "./futoshiki.js";
import { gridOf } from "./grid.js";
import { maze } from "./maze.js";
import { sudoku } from "./sudoku.js";

const known = { sudoku: () => sudoku, maze: () => maze, futoshiki: () => futoshiki, grid: gridOf, arc: arcOf };

// The family of a model, by what is known of the model; undefined for one that the page cannot draw.
export const familyOf = (about) => known[about.family.name]?.(about);
