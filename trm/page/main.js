// The page: what is asked, what is thought, what is shown, and the buttons.

import { canvasOf, curve, node } from "./draw.js";
import { fetched, LocalEngine, ServerEngine } from "./engine.js";
import { examples } from "./examples.js";
import { familyOf } from "./families/index.js";
import { Gif } from "./gif.js";
import { Searching } from "./search.js";
import { Thinking } from "./thinking.js";

const $ = (id) => document.getElementById(id);
const percent = (p) => `${(100 * p).toFixed(p > 0.995 || p < 0.005 ? 1 : 0)} %`;

let models = []; // what models.json lists
let model, engine, family, board, tokens; // what is asked
let exam; // what exact search says of the puzzle
let thinking, at; // what was thought, and which of its frames is shown (-1: before the first)
let picture, small; // the large picture, and one for every rollout
let row = null; // the rollout that somebody chose to see
let tool;
let playing = false;
let beyond = false; // think on although the answer stands
let running = Promise.resolve();
let wake = () => {};
const engines = new Map();

// ---------------------------------------------------------------- asking

async function engineOf(entry) {
  if (!engines.has(entry)) engines.set(entry, (entry.server ? ServerEngine : LocalEngine).open(entry));
  return engines.get(entry);
}

// Read a puzzle in text and find a model for it: the one in use where it fits, else another.
function understand(text, preferred) {
  const faults = [];
  const order = [preferred, ...models.filter((each) => each !== preferred)].filter(Boolean);
  for (const entry of order) {
    const { kind } = entry;
    try {
      const read = kind.parse(text);
      if (kind.fits(entry.about, read.board)) return { entry, ...read };
      faults.push(`no model here takes a ${kind.title} of ${read.board.rows}×${read.board.columns}`);
    } catch (error) {
      faults.push(error.message);
    }
  }
  throw new Error(faults[0]);
}

async function ask(text, preferred = model) {
  const read = understand(text, preferred);
  await stop();
  if (model !== read.entry) [model, tool] = [read.entry, null];
  const opening = engineOf(model); // while the board is drawn
  family = model.kind;
  ({ board, tokens } = read);
  $("model").value = model.name;
  $("runs").textContent = model.server ? "It runs on the server of this page." : "It runs here, in your browser.";
  $("parameters").textContent = model.about.parameters.toLocaleString("en");
  listExamples();
  layOut();
  picture.show(tokens, null); // the puzzle is there before the network
  say("Loading the network …");
  const main = document.querySelector("main");
  main.inert = true;
  try {
    engine = await opening;
  } finally {
    main.inert = false;
  }
  begin();
}

// Think about the puzzle from the start.
function begin(play = true) {
  exam = family.examine(board, tokens);
  const searches = canSearch() && $("search").checked;
  const rollouts = searches ? 1 : Number($("count").value);
  const noise = rollouts > 1 ? Number($("noise").value) : 0;
  thinking = searches
    ? new Searching(engine, family, board, tokens)
    : new Thinking(engine, family, board, tokens, { rollouts, noise });
  $("search").disabled = !canSearch();
  [at, row, beyond] = [-1, null, false];
  drawRollouts(rollouts);
  remember();
  show();
  if (play && exam.fine) start();
}

// A search rules symbols out, which a puzzle in text cannot say to a server.
// A board that is not free cannot be told that a symbol is out.
const canSearch = () =>
  Boolean(engine.about.searches && engine.about.any_board && !model.server && family.houses);

function remember() {
  const asked = new URLSearchParams({ model: model.name, puzzle: family.text(board, tokens) });
  history.replaceState(null, "", `#${asked}`);
  const text = family.text(board, tokens);
  $("text").value = text.startsWith("{") ? text : text.replaceAll("/", "\n");
}

// ---------------------------------------------------------------- the loop

const depth = () => Math.min(256, Math.max(1, Number($("depth").value) || 1));
const delay = () => ($("speed").value === "10" ? 0 : 700 * 0.62 ** $("speed").value);

const ended = () => thinking.ended(depth(), beyond);

async function loop() {
  while (playing) {
    if (at < thinking.frames.length - 1) at++;
    else if (ended()) playing = false;
    else {
      // What it says after the first cycle is shown while the others are computed.
      const next = at + 1;
      const arrived = () => {
        if (at === next) return;
        at = next;
        show();
      };
      await thinking.step(arrived);
      at = next;
    }
    show();
    if (playing) await Promise.race([new Promise((on) => setTimeout(on, delay())), new Promise((on) => (wake = on))]);
  }
}

function start() {
  if (playing) return;
  playing = true;
  running = running.then(loop).catch(fail);
  show();
}

async function stop() {
  playing = false;
  wake();
  await running;
}

function fail(error) {
  playing = false;
  say(`Something went wrong: ${error.message}. Reload the page, or choose another model.`, "wrong");
}

// ---------------------------------------------------------------- showing

const frame = () => (at < 0 ? null : thinking.frames[at]);
const shownRow = (now) => (row ?? (now ? thinking.choose(now).row : 0));

function say(words, kind = "") {
  $("verdict").textContent = words;
  $("verdict").className = kind;
}

function show() {
  const now = frame();
  const rollout = now ? now.rollouts[shownRow(now)] : null;
  const asked = now && at < thinking.frames.length - 1 ? now.tokens : tokens;
  picture.show(asked, rollout);
  $("play").textContent = playing ? "Pause" : "Play";
  $("verdict").setAttribute("aria-live", playing ? "off" : "polite");
  const last = thinking.frames.length;
  Object.assign($("scrubber"), { max: last, value: at + 1 });
  const cycles = engine.about.calls.filter((call) => call === "answer").length;
  const where = now ? (now.where ?? `step ${now.step}, cycle ${now.cycle + 1} of ${cycles}`) : "before the first step";
  $("where").textContent = where;
  $("scrubber").setAttribute("aria-valuetext", where);
  $("disturb").disabled = !thinking.canPoke(pokeFrame());
  showCurves(now);
  showRollouts(now);
  const words = verdict(now, rollout);
  say(...words);
  if (!playing) label();
}

function verdict(now, rollout) {
  if (!now) return [exam.words, exam.fine ? "" : "wrong"];
  const { verdict, halt } = rollout;
  const believes = `the network is ${percent(halt)} sure of its answer`;
  const over = !playing && at === thinking.frames.length - 1 && ended();
  if (verdict.right) return [`Solved at step ${now.step}, and checked by the rules: ${verdict.words}; ${believes}.`, "right"];
  if (verdict.right === null && over) return [`After step ${now.step}, ${believes}; ${verdict.words}. ${exam.words}`, ""];
  if (!over) return [`Thinking: ${verdict.words}; ${believes}.`, ""];
  let compared = "";
  if (exam.solution) {
    const differ = exam.solution.reduce((sum, token, cell) => sum + (token !== rollout.answer[cell]), 0);
    compared = ` The exact solver's answer differs in ${differ} cells.`;
  }
  const search = canSearch() ? "Let it search, or give it more depth" : "Give it more depth";
  const advice = thinking.advice ?? (thinking.steps >= depth() ? `${search}, rollouts with noise, or a poke.` : "Press Play to let it think on.");
  const hint = exam.fine ? advice : exam.words;
  return [`Not solved: ${verdict.words}${halt > 0.5 ? ", though" : ";"} ${believes}.${compared} ${hint}`, "wrong"];
}

function showCurves(now) {
  const k = shownRow(now);
  const seen = thinking.frames.map((each) => each.rollouts[k]);
  const moved = seen.map((each) => each.movedY);
  curve($("halt-curve"), seen.map((each) => each.halt), at, 1);
  curve($("moved-curve"), moved, at, Math.max(1e-6, ...moved));
  const latent = now ? now.rollouts[k].movedZ : [];
  curve($("latent-curve"), latent, -1, Math.max(1e-6, ...latent));
  $("halt").textContent = now ? percent(seen[at].halt) : "–";
  $("moved").textContent = now ? moved[at].toPrecision(2) : "–";
}

function drawRollouts(count) {
  $("rollouts").hidden = $("chosen").hidden = count < 2;
  small = [];
  $("rollouts").replaceChildren();
  for (let k = 0; count > 1 && k < count; k++) {
    const button = document.createElement("button");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("aria-hidden", "true");
    const words = document.createElement("span");
    button.append(svg, words);
    button.onclick = () => {
      row = row === k ? null : k;
      show();
    };
    $("rollouts").append(button);
    small.push({ button, words, picture: family.draw(svg, board) });
  }
}

function showRollouts(now) {
  if (!small.length || !now) return;
  const chosen = thinking.choose(now);
  small.forEach(({ button, words, picture }, k) => {
    const rollout = now.rollouts[k];
    picture.show(now.tokens, rollout);
    button.setAttribute("aria-pressed", String(k === shownRow(now)));
    const mark = rollout.verdict.right ? "solved" : percent(rollout.halt);
    words.textContent = `${k ? k + 1 : "1, plain"}: ${mark}${k === chosen.row ? " ★" : ""}`;
  });
  const alike = (engine.about.candidates || !family.symmetry) && !thinking.noise;
  const remark = alike ? " Without noise this network thinks the same in each of them: give some." : "";
  $("chosen").textContent = `Rollout ${chosen.row + 1} is chosen: ${chosen.why}.${remark}`;
}

// ---------------------------------------------------------------- the board

const cellOf = (at) => $("cells").querySelector(`[data-cell="${at}"]`);

function layOut() {
  const svg = document.querySelector("#board > svg");
  svg.replaceChildren();
  picture = family.draw(svg, board);
  const { x, width, height } = svg.viewBox.baseVal;
  const [edgeX, edgeY] = [(-x / width) * 100, (-x / height) * 100];
  $("board").style.maxWidth = `calc(78vh * ${width / height})`;
  svg.style.aspectRatio = `${width} / ${height}`;
  const grid = $("cells");
  grid.replaceChildren();
  const [w, h] = [(100 - 2 * edgeX) / board.columns, (100 - 2 * edgeY) / board.rows];
  for (let r = 0; r < board.rows; r++) {
    const line = document.createElement("div");
    line.setAttribute("role", "row");
    for (let c = 0; c < board.columns; c++) {
      const cell = document.createElement("div");
      cell.setAttribute("role", "gridcell");
      cell.dataset.cell = r * board.columns + c;
      cell.tabIndex = r + c ? -1 : 0;
      cell.style.cssText = `left:${edgeX + c * w}%;top:${edgeY + r * h}%;width:${w}%;height:${h}%`;
      line.append(cell);
    }
    grid.append(line);
  }
  listTools();
  drawAside();
}

// What a family shows beside the board.
function drawAside() {
  const shown = family.aside?.(board, tokens) ?? [];
  $("aside").hidden = !shown.length;
  $("aside").replaceChildren(
    ...shown.map(({ words, draw }) => {
      const figure = document.createElement("figure");
      draw(node("svg", { role: "img", "aria-label": words }, figure));
      figure.append(Object.assign(document.createElement("figcaption"), { textContent: words }));
      return figure;
    }),
  );
}

// Say in words what every cell holds, for those who hear the page.
function label() {
  const now = frame();
  const rollout = now ? now.rollouts[shownRow(now)] : null;
  for (const cell of $("cells").querySelectorAll("[data-cell]")) {
    const i = Number(cell.dataset.cell);
    const [r, c] = [Math.floor(i / board.columns) + 1, (i % board.columns) + 1];
    cell.setAttribute("aria-label", `row ${r}, column ${c}: ${family.words(board, tokens, rollout, i)}`);
  }
}

function listTools() {
  const paint = family.paint(board);
  tool ??= family.first;
  const choices = [["erase", "erase an answer"], ...paint.map(([name]) => [name, name])];
  $("tools").replaceChildren(
    ...choices.map(([name, words]) => {
      const button = document.createElement("button");
      button.setAttribute("role", "radio");
      button.setAttribute("aria-checked", String(name === tool));
      button.textContent = words;
      button.dataset.tool = name;
      button.onclick = () => {
        tool = name;
        for (const each of $("tools").children) each.setAttribute("aria-checked", String(each === button));
        $("board").classList.toggle("painting", Boolean(family.drags?.(tool)));
      };
      return button;
    }),
  );
  $("hint").textContent = family.hint;
}

// Puzzles to begin with: those of the page, and those that came with the model.
function examplesOf({ about, kind, examples: own = [] }) {
  const fitting = examples.filter((each) => {
    return each.family === about.family.name && kind.fits(about, kind.parse(each.text).board);
  });
  return [...fitting, ...own.map((text, i) => ({ name: `example ${i + 1}`, text }))];
}

function listExamples() {
  const fitting = examplesOf(model);
  const now = family.text(board, tokens);
  const own = fitting.every((each) => each.text !== now);
  $("example").replaceChildren(
    ...[...(own ? [{ name: "your own", text: now }] : []), ...fitting].map(({ name, text }) => {
      const option = new Option(name, text);
      option.selected = text === now;
      return option;
    }),
  );
}

// ---------------------------------------------------------------- poking

// The frame whose state a poke acts on: the last whole step up to the one that is shown.
function pokeFrame() {
  return thinking.frames.slice(0, at + 1).findLast((each) => each.whole) ?? null;
}

async function poke(act) {
  await stop();
  const from = pokeFrame();
  if (!thinking.canPoke(from)) return note("nothing was kept here that can be poked");
  act(from);
  at = thinking.frames.length - 1;
  beyond = false;
  start();
}

// Change the puzzle, now in the picture and, when the hand is lifted, in what is thought about.
function change(next) {
  if (!next) return;
  tokens = next;
  playing = false;
  exam = family.examine(board, tokens);
  picture.show(tokens, null);
  drawAside();
}

async function changed() {
  await stop();
  if (!$("keep").checked || !thinking.frames.length || !thinking.canPoke(pokeFrame())) begin();
  else {
    remember();
    await poke((from) => {
      thinking.rewind(from);
      thinking.ask(tokens);
    });
    if (!exam.fine) await stop();
    show();
  }
  listExamples();
}

function use(cell) {
  if (tool === "erase") {
    if (family.words(board, tokens, null, cell).includes("given")) note("that is a clue: choose “clear” to take it away");
    else poke((from) => thinking.erase(from, cell));
    return false;
  }
  const [, token] = family.paint(board).find(([name]) => name === tool);
  change(family.painted(board, tokens, cell, token));
  return true;
}

let drawing = false;
$("cells").addEventListener("pointerdown", (event) => {
  const cell = event.target.dataset.cell;
  if (cell === undefined) return;
  focusOn(Number(cell));
  event.target.releasePointerCapture?.(event.pointerId);
  drawing = use(Number(cell));
});
$("cells").addEventListener("pointermove", (event) => {
  if (!drawing || !$("board").classList.contains("painting")) return;
  const under = document.elementFromPoint(event.clientX, event.clientY)?.dataset.cell;
  if (under !== undefined) use(Number(under));
});
addEventListener("pointerup", () => {
  if (drawing) changed().catch(fail);
  drawing = false;
});

function focusOn(i) {
  for (const cell of $("cells").querySelectorAll('[tabindex="0"]')) cell.tabIndex = -1;
  cellOf(i).tabIndex = 0;
  cellOf(i).focus({ preventScroll: true });
}

$("cells").addEventListener("keydown", (event) => {
  const cell = Number(event.target.dataset.cell);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const ways = { ArrowUp: -board.columns, ArrowDown: board.columns, ArrowLeft: -1, ArrowRight: 1 };
  if (event.key in ways) {
    const next = cell + ways[event.key];
    const sideways = Math.abs(ways[event.key]) === 1;
    const sameRow = Math.floor(next / board.columns) === Math.floor(cell / board.columns);
    if (next >= 0 && next < board.length && (!sideways || sameRow)) focusOn(next);
  } else if (event.key === "Enter") {
    if (use(cell)) changed().catch(fail);
  } else {
    const next = family.typed(board, tokens, cell, event.key);
    if (!next) return;
    change(next);
    changed().catch(fail);
  }
  event.preventDefault();
});

// ---------------------------------------------------------------- buttons

function note(words) {
  $("note").textContent = words;
}

$("play").onclick = async () => {
  if (playing) {
    await stop();
    return show();
  }
  if (at === thinking.frames.length - 1 && ended()) {
    if (thinking.steps >= depth()) $("depth").value = Math.min(256, depth() * 2);
    beyond = true;
  }
  start();
};
$("next").onclick = async () => {
  await stop();
  if (at === thinking.frames.length - 1) {
    if (thinking.steps >= 256) return note("256 steps are the most");
    await thinking.step().catch(fail);
  }
  const whole = thinking.frames.findIndex((each, i) => i > at && each.whole);
  if (whole >= 0) at = whole;
  show();
};
$("again").onclick = async () => {
  await stop();
  begin();
};
$("scrubber").oninput = async () => {
  const wanted = Number($("scrubber").value) - 1;
  await stop();
  at = Math.min(wanted, thinking.frames.length - 1);
  show();
};
$("count").onchange = $("noise").onchange = $("search").onchange = async () => {
  await stop();
  begin();
};
$("depth").onchange = () => {
  $("depth").value = depth();
};
$("disturb").onclick = () => poke((from) => thinking.addNoise(from, 1)).catch(fail);
$("model").onchange = () => {
  const entry = models.find((each) => each.name === $("model").value);
  const same = entry.about.family.name === model.about.family.name && entry.kind.fits(entry.about, board);
  ask(same ? family.text(board, tokens) : firstOf(entry), entry).catch(refuse);
};
$("example").onchange = () => ask($("example").value).catch(refuse);
$("read").onclick = () => ask($("text").value).catch(refuse);
$("blank").onclick = async () => {
  await stop();
  tokens = family.blank(board);
  begin(false);
  listExamples();
};
$("link").onclick = async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    note("the link is copied");
  } catch {
    note("copy the address of this page");
  }
};
function save(blob, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${family.title.toLowerCase()}-step-${frame()?.step ?? 0}.${ending}`;
  link.click();
  note("saved as a picture");
}

$("picture").onclick = async () => {
  const canvas = await canvasOf(document.querySelector("#board > svg"), 2);
  save(await canvas.convertToBlob({ type: "image/png" }), "png");
};

// The puzzle, and what stood after every step; drawn unseen, where styles hold.
$("animation").onclick = async () => {
  await stop();
  note("drawing …");
  const svg = node("svg", { class: "unseen", "aria-hidden": "true" }, document.body);
  const drawn = family.draw(svg, board);
  const steps = thinking.frames.filter((each) => each.whole);
  let gif;
  for (const each of [null, ...steps]) {
    drawn.show(each?.tokens ?? tokens, each && each.rollouts[shownRow(each)]);
    const canvas = await canvasOf(svg, 1);
    const { width, height } = canvas;
    gif ??= new Gif(width, height);
    gif.add(canvas.getContext("2d").getImageData(0, 0, width, height).data, each === steps.at(-1) ? 2800 : 700);
  }
  svg.remove();
  save(gif.blob(), "gif");
};
addEventListener("hashchange", () => fromAddress().catch(fail));

// What was typed is wrong: say so, and change nothing.
async function refuse(error) {
  await stop(); // or what is thought next would be said in its place
  say(error.message, "wrong");
}

// ---------------------------------------------------------------- opening

function firstOf({ about, kind, ...entry }) {
  const blank = () => kind.text(kind.boardOf(about), kind.blank(kind.boardOf(about)));
  return examplesOf({ about, kind, ...entry })[0]?.text ?? blank();
}

async function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const entry = models.find((each) => each.name === asked.get("model")) ?? models[0];
  const text = asked.get("puzzle");
  let fault = "";
  try {
    if (text) understand(text, entry);
  } catch (error) {
    fault = `The link holds no puzzle: ${error.message}. Here is another one.`;
  }
  await ask(text && !fault ? text : firstOf(entry), entry);
  note(fault);
}

try {
  models = await (await fetched("models.json")).json();
  for (const entry of models) entry.kind = familyOf(entry.about);
  models = models.filter(({ kind }) => kind);
  if (!models.length) throw new Error("there is no model that this page can draw");
  for (const { name } of models) $("model").append(new Option(name));
  await fromAddress();
} catch (error) {
  fail(error);
}
