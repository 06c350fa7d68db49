// A small part of TeX as MathML: what answers of language models use most. What it does not know is shown as it was written.
const SPACE = "http://www.w3.org/1998/Math/MathML";
const DEEPEST = 40;

const LETTERS = Object.fromEntries(
  (
    "alpha α beta β gamma γ delta δ epsilon ϵ varepsilon ε zeta ζ eta η theta θ iota ι kappa κ lambda λ " +
    "mu μ nu ν xi ξ pi π rho ρ sigma σ tau τ " +
    "upsilon υ phi ϕ varphi φ chi χ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ " +
    "Phi Φ Psi Ψ Omega Ω infty ∞ partial ∂ nabla ∇ " +
    "ell ℓ hbar ℏ emptyset ∅ forall ∀ exists ∃ angle ∠ degree ° prime ′"
  )
    .split(" ")
    .reduce((pairs, word, i, all) => (i % 2 ? pairs : [...pairs, [word, all[i + 1]]]), []),
);
const SIGNS = Object.fromEntries(
  (
    "times × cdot ⋅ div ÷ pm ± mp ∓ le ≤ leq ≤ ge ≥ geq ≥ ne ≠ neq ≠ approx ≈ equiv ≡ sim ∼ propto ∝ " +
    "in ∈ notin ∉ subset ⊂ subseteq ⊆ cup ∪ cap ∩ " +
    "to → rightarrow → leftarrow ← Rightarrow ⇒ Leftarrow ⇐ iff ⇔ Leftrightarrow ⇔ mapsto ↦ sum ∑ " +
    "prod ∏ int ∫ oint ∮ land ∧ lor ∨ neg ¬ lnot ¬ " +
    "cdots ⋯ ldots … dots … vdots ⋮ circ ∘ ast ∗ star ⋆ oplus ⊕ otimes ⊗ perp ⊥ parallel ∥ mid ∣ ll ≪ " +
    "gg ≫ langle ⟨ rangle ⟩ lfloor ⌊ rfloor ⌋ " +
    "lceil ⌈ rceil ⌉ therefore ∴ because ∵ colon :"
  )
    .split(" ")
    .reduce((pairs, word, i, all) => (i % 2 ? pairs : [...pairs, [word, all[i + 1]]]), []),
);
const NAMES = new Set(
  "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp lim max min sup inf det dim gcd mod Pr arg".split(" "),
);
const LIMITS = new Set(["∑", "∏", "lim", "max", "min", "sup", "inf"]);
const SPACES = { ",": "0.17em", ";": "0.28em", ":": "0.22em", "!": "-0.17em", " ": "0.33em", quad: "1em", qquad: "2em" };
const ACCENTS = { hat: "^", bar: "¯", overline: "¯", vec: "→", dot: "˙", ddot: "¨", tilde: "˜", widehat: "^" };
const DOUBLE = { R: "ℝ", N: "ℕ", Z: "ℤ", Q: "ℚ", C: "ℂ", P: "ℙ", E: "𝔼" };
const FACES = new Set(["mathbf", "boldsymbol", "mathrm", "mathit", "mathcal", "mathsf"]); // shown in the usual face

/** An element for a formula; the source itself, in code, where it uses what is not known here. */
export function formula(tex, display = false) {
  try {
    const reader = new Reader(tex);
    const row = reader.row(() => reader.done);
    const math = make("math", row);
    if (display) math.setAttribute("display", "block");
    math.setAttribute("aria-label", tex);
    return math;
  } catch {
    const shown = document.createElement("code");
    shown.textContent = tex;
    return shown;
  }
}

function make(tag, ...children) {
  const element = document.createElementNS(SPACE, tag);
  element.append(...children);
  return element;
}

function space(width) {
  const element = make("mspace");
  element.setAttribute("width", width);
  return element;
}

class Reader {
  #depth = 0;

  constructor(tex) {
    this.tokens =
      tex.match(/\\(?:text|textbf|textit|mbox|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+|\\[\s\S]|\d+(?:\.\d+)?|\s+|[\s\S]/gu) ?? [];
    this.tokens = this.tokens.filter((token) => token.trim());
    this.at = 0;
  }

  get done() {
    return this.at >= this.tokens.length;
  }

  get ahead() {
    return this.tokens[this.at];
  }

  take(wanted) {
    if (this.done || (wanted && this.ahead !== wanted)) throw new Error(`expected ${wanted}`);
    return this.tokens[this.at++];
  }

  /** Everything until `end()` holds, as one row. */
  row(end) {
    if (++this.#depth > DEEPEST) throw new Error("too deep");
    const parts = [];
    while (!end()) parts.push(this.scripted());
    this.#depth--;
    return make("mrow", ...parts);
  }

  scripted() {
    const base = this.atom();
    let below = null;
    let above = null;
    while (this.ahead === "_" || this.ahead === "^") {
      if (this.take() === "_") below = this.argument();
      else above = this.argument();
    }
    const [under, over, both] = LIMITS.has(base.textContent) ? ["munder", "mover", "munderover"] : ["msub", "msup", "msubsup"];
    if (below && above) return make(both, base, below, above);
    if (below) return make(under, base, below);
    return above ? make(over, base, above) : base;
  }

  argument() {
    return this.ahead === "{" ? this.group() : this.atom();
  }

  group() {
    this.take("{");
    const row = this.row(() => this.done || this.ahead === "}");
    this.take("}");
    return row;
  }

  /** The source between braces, joined again. */
  source() {
    this.take("{");
    const parts = [];
    while (this.ahead !== "}") parts.push(this.take());
    this.take("}");
    return parts.join("");
  }

  atom() {
    if (this.ahead === "{") return this.group();
    const token = this.take();
    if (token === "}" || token === "&" || token === "_" || token === "^") throw new Error(`stray ${token}`);
    const words = /^\\\w+\s*\{([^{}]*)\}$/.exec(token);
    if (words) return make("mtext", words[1].replaceAll(" ", "\u00a0"));
    if (token.startsWith("\\") && token.length > 1) return this.command(token.slice(1));
    if (/^\d/.test(token)) return make("mn", token);
    return /^\p{L}/u.test(token) ? make("mi", token) : make("mo", token === "-" ? "−" : token);
  }

  command(name) {
    if (Object.hasOwn(LETTERS, name)) return make("mi", LETTERS[name]);
    if (Object.hasOwn(SIGNS, name)) return make("mo", SIGNS[name]);
    if (NAMES.has(name)) return make("mi", name);
    if (Object.hasOwn(SPACES, name)) return space(SPACES[name]);
    if (name === "frac" || name === "dfrac" || name === "tfrac") return make("mfrac", this.argument(), this.argument());
    if (name === "binom") return make("mrow", make("mo", "("), this.#stack(this.argument(), this.argument()), make("mo", ")"));
    if (name === "sqrt") return this.#root();
    if (name === "left") return this.#fenced();
    if (name === "begin") return this.#matrix();
    if (Object.hasOwn(ACCENTS, name)) return make("mover", this.argument(), make("mo", ACCENTS[name]));
    if (name === "mathbb") return this.#double();
    if (FACES.has(name)) return this.argument();
    if (["{", "}", "%", "$", "#", "&", "_"].includes(name)) return make("mo", name);
    if (name === "|") return make("mo", "‖");
    throw new Error(`unknown \\${name}`);
  }

  #double() {
    const letter = this.ahead === "{" ? this.source() : this.take();
    if (!Object.hasOwn(DOUBLE, letter)) throw new Error(`unknown \\mathbb ${letter}`);
    return make("mi", DOUBLE[letter]);
  }

  #root() {
    if (this.ahead !== "[") return make("msqrt", this.argument());
    this.take("[");
    const index = this.row(() => this.done || this.ahead === "]");
    this.take("]");
    return make("mroot", this.argument(), index);
  }

  #fence() {
    const token = this.take();
    const name = token.slice(1);
    return token === "." ? "" : token.startsWith("\\") ? (SIGNS[name] ?? name) : token;
  }

  #fenced() {
    const open = this.#fence();
    const inside = this.row(() => this.done || this.ahead === "\\right");
    this.take("\\right");
    return make("mrow", make("mo", open), inside, make("mo", this.#fence()));
  }

  #matrix() {
    const kind = this.source();
    const fences = {
      matrix: ["", ""],
      pmatrix: ["(", ")"],
      bmatrix: ["[", "]"],
      vmatrix: ["|", "|"],
      cases: ["{", ""],
      aligned: ["", ""],
      align: ["", ""],
    };
    if (!Object.hasOwn(fences, kind)) throw new Error(`unknown ${kind}`);
    const rows = [[]];
    const end = () => this.done || this.ahead === "&" || this.ahead === "\\\\" || this.ahead === "\\end";
    while (this.ahead !== "\\end") {
      rows.at(-1).push(make("mtd", this.row(end)));
      if (this.ahead === "&") this.take();
      else if (this.ahead === "\\\\") rows.push([this.take()].slice(1));
      else if (this.done) throw new Error("no end");
    }
    this.take("\\end");
    this.source();
    const table = make("mtable", ...rows.filter((cells) => cells.length).map((cells) => make("mtr", ...cells)));
    return make("mrow", make("mo", fences[kind][0]), table, make("mo", fences[kind][1]));
  }

  #stack(above, below) {
    return make("mtable", make("mtr", make("mtd", above)), make("mtr", make("mtd", below)));
  }
}
