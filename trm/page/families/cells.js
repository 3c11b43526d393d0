// A board whose cells hold symbols: clues, answers, and pencil marks as strong as they are probable, until the
// rules confirm the answer.

import { flash, node } from "../draw.js";

const UNIT = 36; // of a cell, in the picture
const MOST_MARKS = 25;

// `look` says of a family: vocabulary, symbols [token, text] that answers hold, text(token), clue(token),
// wrong(tokens) as a set, boxes {rows, columns} where lines are to be thick, and plain(cell) where a cell has no
// frame. The picture is kept up to date by `show(tokens, rollout or null)`.
export function drawCells(svg, { rows, columns, length }, look) {
  const [width, height] = [columns * UNIT, rows * UNIT];
  svg.setAttribute("viewBox", `-2 -2 ${width + 4} ${height + 4}`);
  const marked = look.symbols.length <= MOST_MARKS ? look.symbols : [];
  const across = Math.ceil(Math.sqrt(marked.length));
  const plain = look.plain ?? (() => false);
  const cells = Array.from({ length }, (_, at) => {
    const [x, y] = [(at % columns) * UNIT, Math.floor(at / columns) * UNIT];
    const group = node("g", { transform: `translate(${x} ${y})` }, svg);
    const kind = plain(at) ? "cell plain" : look.boxes ? "cell" : "cell framed";
    const back = node("rect", { width: UNIT, height: UNIT, class: kind }, group);
    const marks = marked.map(([token, text], i) => {
      const place = (UNIT - 4) / across;
      const mark = node("text", { class: "mark", "font-size": place * 0.9, opacity: 0 }, group);
      mark.setAttribute("x", 2 + ((i % across) + 0.5) * place);
      mark.setAttribute("y", 2.5 + (Math.floor(i / across) + 0.5) * place);
      mark.textContent = text;
      return { token, mark };
    });
    const large = node("text", { x: UNIT / 2, y: UNIT / 2 }, group);
    return { back, marks, large };
  });
  if (look.boxes) {
    for (let i = 0; i <= columns; i++)
      node("path", { d: `M${i * UNIT} 0V${height}`, class: i % look.boxes.columns ? "line" : "line thick" }, svg);
    for (let i = 0; i <= rows; i++)
      node("path", { d: `M0 ${i * UNIT}H${width}`, class: i % look.boxes.rows ? "line" : "line thick" }, svg);
  }
  const symbols = new Set(look.symbols.map(([token]) => token));
  return {
    show(tokens, rollout) {
      const wrong = rollout ? rollout.verdict.wrong : look.wrong(tokens);
      cells.forEach(({ back, marks, large }, at) => {
        const clue = !rollout || look.clue(tokens[at]);
        const best = clue ? tokens[at] : rollout.answer[at];
        const sure = clue ? 1 : rollout.chance[at * look.vocabulary + best];
        const settled = clue || !marks.length || rollout.verdict.right || (sure > 0.9 && symbols.has(best));
        const text = settled ? look.text(best) : "";
        large.textContent = text;
        large.setAttribute("class", look.clue(tokens[at]) ? "clue" : "answer");
        large.setAttribute("font-size", (UNIT * 0.62) / Math.max(1, 0.6 * text.length));
        back.classList.toggle("wrong", wrong.has(at) && settled);
        back.classList.toggle("given", look.clue(tokens[at]) && tokens[at] > 0);
        for (const { token, mark } of marks) {
          const p = settled ? 0 : rollout.chance[at * look.vocabulary + token];
          mark.setAttribute("opacity", p < 0.02 ? 0 : (0.15 + 0.85 * p).toFixed(2));
        }
      });
      if (rollout) flash(rollout.changed.filter((at) => !look.clue(tokens[at])).map((at) => cells[at].back));
    },
  };
}
