// A bar chart on a logarithmic scale, as SVG that is readable on light and on dark pages.

const COLORS = ["#8c8c8c", "#3b82f6", "#f97316"];
const WIDTH = 900;
const LABELS = 380;
const VALUES = 90;
const BAR = 12;
const GAP = 14;
const TOP = 64;

/** `bars` are groups: `{ label, values: [{ median, low, high } or nothing for each of the series] }`. */
export function barChart({ title, series, bars }) {
  const all = bars.flatMap(({ values }) => values).filter((value) => value?.median > 0);
  const lowest = 10 ** Math.floor(Math.log10(Math.min(...all.map(({ low, median }) => (low > 0 ? low : median)))));
  const highest = Math.max(...all.map(({ high }) => high));
  const width = WIDTH - LABELS - VALUES;
  const x = (value) => LABELS + (width * Math.log10(Math.max(value, lowest) / lowest)) / Math.log10(highest / lowest || 10);

  const group = series.length * BAR + GAP;
  const height = TOP + bars.length * group + 10;
  const parts = [];
  for (let tick = lowest; tick <= highest; tick *= 10) {
    parts.push(`<line x1="${n(x(tick))}" x2="${n(x(tick))}" y1="${TOP - 8}" y2="${height - 10}" stroke="#888" stroke-opacity=".35"/>`);
    parts.push(`<text x="${n(x(tick))}" y="${TOP - 14}" text-anchor="middle" fill="#888">${short(tick)}</text>`);
  }
  series.forEach((name, index) => {
    const at = LABELS + index * 150;
    parts.push(`<rect x="${at}" y="12" width="12" height="12" fill="${COLORS[index]}"/>`);
    parts.push(`<text x="${at + 18}" y="22" fill="#888">${escape(name)}</text>`);
  });
  bars.forEach(({ label, values }, index) => {
    const top = TOP + index * group;
    parts.push(`<text x="${LABELS - 10}" y="${top + group / 2 - 4}" text-anchor="end" fill="#888">${escape(label)}</text>`);
    values.forEach((value, place) => {
      if (!value) return;
      const y = top + place * BAR;
      const end = x(value.median);
      parts.push(`<rect x="${LABELS}" y="${y}" width="${n(Math.max(end - LABELS, 1))}" height="${BAR - 2}" fill="${COLORS[place]}"/>`);
      const middle = y + BAR / 2 - 1;
      parts.push(`<line x1="${n(x(value.low))}" x2="${n(x(value.high))}" y1="${middle}" y2="${middle}" stroke="#555" stroke-width="1.5"/>`);
      parts.push(`<text x="${n(Math.max(end, x(value.high)) + 5)}" y="${y + BAR - 3}" fill="#888">${short(value.median)}</text>`);
    });
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, sans-serif" font-size="11">
<title>${escape(title)} (logarithmic; the line is the range of the trials)</title>
${parts.join("\n")}
</svg>
`;
}

const n = (value) => value.toFixed(1);

function short(value) {
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (value >= 1e3) return `${Number((value / 1e3).toPrecision(3))}k`;
  return String(Number(value.toPrecision(3)));
}

function escape(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
