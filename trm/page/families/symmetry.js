// Symmetries that several families share.

// The numbers below `count`, in a random order.
export function shuffled(count, random) {
  const order = [...Array(count).keys()];
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

// Where every cell comes from, under a random rotation or reflection that keeps the shape.
export function turned({ rows, columns, length }, random) {
  const flipRows = random() < 0.5;
  const flipColumns = random() < 0.5;
  const swap = rows === columns && random() < 0.5;
  return Array.from({ length }, (_, at) => {
    let [r, c] = [Math.floor(at / columns), at % columns];
    if (swap) [r, c] = [c, r];
    return (flipRows ? rows - 1 - r : r) * columns + (flipColumns ? columns - 1 - c : c);
  });
}
