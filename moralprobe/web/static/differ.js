// Which words of a text another doesn't have, by their longest common subsequence.
export function differing(text, other) {
  const a = text.split(/(\s+)/), b = other.split(/(\s+)/);
  const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    }
  }
  const found = [];
  let i = 0, j = 0;
  while (i < a.length) {
    const same = j < b.length && a[i] === b[j];
    if (same || j === b.length || table[i + 1][j] >= table[i][j + 1]) {
      const own = !same && a[i].trim() !== "";
      if (found.length && found.at(-1)[1] === own) found.at(-1)[0] += a[i];
      else found.push([a[i], own]);
      i++;
      if (same) j++;
    } else j++;
  }
  return found;
}
