// Places in a text, in Unicode characters (code points). Pure, but for `offsetsIn`, which reads a selection.

/** How many characters a UTF-16 string has. */
export const size = (text) => {
  let n = 0;
  for (const _ of text) n++;
  return n;
};

/** {start, end} of what is selected within `host`; null when nothing is, or it only passes through. White space at the ends is left out. */
export function offsetsIn(host, selection) {
  if (!selection || selection.rangeCount === 0 || selection.isCollapsed) return null;
  const range = selection.getRangeAt(0).cloneRange();
  const [begins, ends] = [host.contains(range.startContainer), host.contains(range.endContainer)];
  if (!begins && !ends) return null;
  if (!begins) range.setStart(host, 0);
  if (!ends) range.setEnd(host, host.childNodes.length); // three clicks select up to the next paragraph
  const before = document.createRange();
  before.selectNodeContents(host);
  before.setEnd(range.startContainer, range.startOffset);
  const text = textOf(range);
  const inner = text.trim();
  if (!inner) return null;
  const start = size(textOf(before)) + size(text.slice(0, text.length - text.trimStart().length));
  return { start, end: start + size(inner) };
}

/** The text nodes of a range, exactly: `toString` of a selection would add line breaks of the layout. */
function textOf(range) {
  return range.cloneContents().textContent;
}

/** Cut `length` characters where marks or the cursor begin or end -> [{start, end, inside: spans, under: in the cursor?}]. */
export function segments(length, spans, cursor) {
  const edges = new Set([0, length, ...spans.flatMap(({ start, end }) => [start, end]), ...(cursor ? [cursor.start, cursor.end] : [])]);
  const cuts = [...edges].filter((edge) => edge >= 0 && edge <= length).sort((a, b) => a - b);
  return cuts.slice(0, -1).map((start, i) => {
    const end = cuts[i + 1];
    const covers = (span) => span.start <= start && end <= span.end;
    return { start, end, inside: spans.filter(covers), under: Boolean(cursor && covers(cursor)) };
  });
}

/** The next stretch for the keyboard: a word (or one sign) further, or longer by that. `chars`: the text's characters. */
export function wordAt(chars, from, way, longer, signs) {
  const words = signs ? chars.map((_, i) => ({ start: i, end: i + 1 })) : wordsOf(chars);
  if (!words.length) return { start: 0, end: 0 };
  if (!from) return way > 0 ? { ...words[0] } : { ...words.at(-1) };
  const after = words.find(({ start }) => start >= from.end);
  const before = words.findLast(({ end }) => end <= from.start);
  if (!longer) return { ...((way > 0 ? after : before) ?? from) };
  if (way > 0) return { start: from.start, end: after?.end ?? from.end };
  const shorter = words.findLast(({ end }) => end < from.end);
  return shorter && shorter.end > from.start ? { start: from.start, end: shorter.end } : from;
}

function wordsOf(chars) {
  const text = chars.join("");
  const words = [];
  let at = 0;
  for (const { segment, isWordLike } of new Intl.Segmenter(undefined, { granularity: "word" }).segment(text)) {
    const length = size(segment);
    if (isWordLike) words.push({ start: at, end: at + length });
    at += length;
  }
  return words;
}
