// An animation as GIF 89a: every picture has a palette of its own, and its pixels are packed by LZW.

const MOST_CODES = 4096;
const COLOURS = 256;

export class Gif {
  constructor(width, height) {
    this.size = [...two(width), ...two(height)];
    const again = [0x21, 0xff, 11, ...ascii("NETSCAPE2.0"), 3, 1, 0, 0, 0]; // and again, for ever
    this.parts = [Uint8Array.from([...ascii("GIF89a"), ...this.size, 0, 0, 0, ...again])];
  }

  // Add a picture, RGBA as a canvas gives it, that is shown for so many milliseconds.
  add(rgba, milliseconds) {
    const { pixels, palette } = paletted(rgba);
    const head = [0x21, 0xf9, 4, 0, ...two(Math.round(milliseconds / 10)), 0, 0];
    head.push(0x2c, 0, 0, 0, 0, ...this.size, 0x87, ...palette, 8);
    this.parts.push(Uint8Array.from(head), blocks(packed(pixels)));
  }

  blob() {
    return new Blob([...this.parts, Uint8Array.of(0x3b)], { type: "image/gif" });
  }
}

const ascii = (text) => [...text].map((char) => char.charCodeAt(0));
const two = (number) => [number & 255, number >> 8];

// Pixels as numbers of a palette. Our pictures have few colours and the shades between them, so the commonest
// ones are kept and every other becomes the nearest of these.
function paletted(rgba) {
  const shades = new Uint16Array(rgba.length / 4); // five bits of red, green and blue
  const counts = new Map();
  for (let i = 0; i < shades.length; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    const shade = ((r >> 3) << 10) | ((g >> 3) << 5) | (b >> 3);
    shades[i] = shade;
    const known = counts.get(shade);
    if (known) known.count++;
    else counts.set(shade, { shade, count: 1, colour: [r, g, b] });
  }
  const common = [...counts.values()].sort((a, b) => b.count - a.count).slice(0, COLOURS);
  const number = new Map(common.map(({ shade }, i) => [shade, i]));
  const far = (a, b) => a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0);
  for (const { shade, colour } of counts.values()) {
    if (number.has(shade)) continue;
    const nearest = common.reduce((best, each) => (far(each.colour, colour) < far(best.colour, colour) ? each : best));
    number.set(shade, number.get(nearest.shade));
  }
  const palette = new Uint8Array(3 * COLOURS);
  common.forEach(({ colour }, i) => palette.set(colour, 3 * i));
  return { pixels: Uint8Array.from(shades, (shade) => number.get(shade)), palette };
}

// LZW as GIF has it: strings of pixels become codes, which grow from 9 to 12 bits; a full table starts anew.
function packed(pixels) {
  const [clear, end] = [COLOURS, COLOURS + 1];
  const out = [];
  const known = new Map(); // a string, as the code of its beginning and its last pixel, by code
  let [held, bits, width, next] = [0, 0, 9, end + 1];
  const write = (code) => {
    held |= code << bits;
    for (bits += width; bits >= 8; bits -= 8) {
      out.push(held & 255);
      held >>>= 8;
    }
  };
  write(clear);
  let string = pixels[0];
  for (let i = 1; i < pixels.length; i++) {
    const longer = (string << 8) | pixels[i];
    const code = known.get(longer);
    if (code !== undefined) {
      string = code;
      continue;
    }
    write(string);
    string = pixels[i];
    if (next === MOST_CODES) {
      write(clear);
      known.clear();
      [width, next] = [9, end + 1];
      continue;
    }
    if (next === 1 << width) width++;
    known.set(longer, next++);
  }
  write(string);
  if (next === 1 << width && width < 12) width++; // the reader has added a string by now
  write(end);
  if (bits) out.push(held & 255);
  return out;
}

// Bytes in blocks of at most 255, each with its length before it, and an empty one at the end.
function blocks(bytes) {
  const made = [];
  for (let i = 0; i < bytes.length; i += 255) {
    const part = bytes.slice(i, i + 255);
    made.push(part.length, ...part);
  }
  return Uint8Array.from([...made, 0]);
}
