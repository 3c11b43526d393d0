// What pictures share.

const SVG = "http://www.w3.org/2000/svg";
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export function node(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

// Let cells light up for a moment, as their answer changed.
export function flash(elements) {
  if (calm.matches || elements.length > 400) return;
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--flash");
  for (const element of elements) element.animate([{ fill: colour }, {}], { duration: 500 });
}

// A small curve of numbers between 0 and `top`, with a mark where one is.
export function curve(svg, values, at, top) {
  const [width, height] = [svg.clientWidth || 240, 56];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const x = (i) => (values.length < 2 ? 4 : 4 + (i * (width - 8)) / (values.length - 1));
  const y = (value) => height - 4 - ((height - 8) * Math.min(value, top)) / (top || 1);
  svg.replaceChildren();
  node("path", { d: `M4 ${height - 4}H${width - 4}`, class: "axis" }, svg);
  if (!values.length) return;
  node("path", { d: values.map((value, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`).join(""), class: "curve" }, svg);
  if (at >= 0) node("circle", { cx: x(at), cy: y(values[at]), r: 3.5, class: "here" }, svg);
}

// A picture on a canvas, by way of a copy that carries its own style.
export async function canvasOf(svg, scale) {
  const copy = svg.cloneNode(true);
  const box = svg.viewBox.baseVal;
  const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
  copy.setAttribute("xmlns", SVG);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  const originals = svg.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((element, i) => {
    const style = getComputedStyle(originals[i]);
    for (const name of ["fill", "stroke", "stroke-width", "font-family", "font-weight", "text-anchor", "dominant-baseline"])
      element.style.setProperty(name, style.getPropertyValue(name));
  });
  const image = new Image();
  image.src = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  await image.decode();
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = getComputedStyle(document.body).backgroundColor;
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
  return canvas;
}
