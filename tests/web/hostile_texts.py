"""Texts that want to be more than text."""

from __future__ import annotations

CORPUS = {
    "handler": "<img src=x onerror=\"window.hacked='img'\">",
    "script": "</script><script>window.hacked='script'</script>",
    "closes": "</div></section></body></html><script>window.hacked=1</script>",
    "link": "[click](javascript:window.hacked='link') [also](data:text/html,<script>parent.hacked=1</script>)",
    "good link": "[fine](https://example.org/a) and <https://example.org/b> and [mail](mailto:a@example.org)",
    "raw link": '<a href="javascript:hacked=1">x</a>',
    "odd link": "[a](JaVaScRiPt:alert(1)) [b](java\tscript:alert(1)) [c](&#106;avascript:alert(1)) [d](vbscript:x) [e](//example.org/x)",
    "svg": "<svg onload=\"window.hacked='svg'\"><script>hacked=1</script><a xlink:href='javascript:hacked=1'><text>x</text></a></svg>",
    "math": "<math><mtext><table><mglyph><style><img src onerror=window.hacked=1></style></mglyph></table></mtext></math>",
    "tex": r"$\text{<img src=x onerror=window.hacked=1>}$ $$\href{javascript:hacked=1}{x}$$ $" + "{" * 200 + "$",
    "style": "<style>body{display:none}</style><p style='position:fixed;inset:0;background:red'>x</p>",
    "frame": "<iframe src='javascript:parent.hacked=1'></iframe><object data=x></object><embed src=x><base href='https://example.org/'>",
    "form": "<form action='https://example.org'><input name=a autofocus onfocus=window.hacked=1><button>Send</button></form>",
    "clobber": '<a id="stage" name="body">x</a><img name="getElementById"><input id=toast>',
    "bidi": "user \u202egnp.exe\u202c and \u2066isolated\u2069 and \u200fmark and \ufeff zero\u200bwidth",
    "code": "```html\n<script>window.hacked=1</script>\n```\n`<b onclick=hacked=1>`",
    "table": "|a|b|\n|---|---|\n|<img src=x onerror=window.hacked=1>|[x](javascript:hacked=1)|",
    "template": "{{ 7*7 }} ${7*7} <%= 7*7 %> {% raw %}",
    "nested": "*" * 3000 + "[" * 3000 + ">" * 2000,
    "backticks": "`" * 5001 + "\n" + "~" * 999 + "\n- " * 500,
    "control": "a\x00b\x07c\x1b[31mred\u2028line\u2029para",
    "zalgo": "Z" + "\u0300\u0301\u0302" * 200,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 50,
    "huge": "word " * 60000,
    "one word": "x" * 100000,
}
