// The families that the page knows: their rules and how they look, one module each.

import { maze } from "./maze.js";
import { sudoku } from "./sudoku.js";

export const families = { sudoku, maze };
