"""A page in which every word of a text is shaded by its surprisal: one file, no script, nothing from elsewhere."""
import math
from html import escape

from evaluation.text import by_line
from runtime.log import counted

MOST = 20_000          # words on a page: a browser must still scroll
STEPS = (1, 2, 4, 6, 9, 12, 16)        # bits at which the next shade begins

# Light and dark: seven steps from the page's own colour to a strong one, the text on each readable (contrast over 4.5).
LIGHT = ("#ffffff", "#fff3d6", "#ffe3a8", "#ffcd80", "#ffb066", "#f98e5c", "#ec6f5e", "#dc5a63")
DARK = ("#16181d", "#2a2620", "#40321f", "#573b20", "#6e4022", "#834328", "#93403a", "#9c3a4b")

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #16181d; --quiet: #55595f; --line: #c9ccd1; }
%(light)s
@media (prefers-color-scheme: dark) {
  :root { --page: #16181d; --ink: #f2f3f5; --quiet: #b4b8bf; --line: #444a53; }
%(dark)s
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1rem 5rem; max-width: 60rem; background: var(--page); color: var(--ink);
       font: 1rem/1.9 system-ui, sans-serif; }
h1 { font-size: 1.2rem; line-height: 1.4; margin: 0; overflow-wrap: anywhere; }
p.about { color: var(--quiet); margin: .3rem 0 .8rem; line-height: 1.5; }
.legend { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .25rem; align-items: center;
          background: var(--page); border-bottom: 1px solid var(--line); padding: .5rem 0; font-size: .85rem;
          line-height: 1.4; }
.legend span { padding: .1rem .45rem; border-radius: .25rem; border: 1px solid var(--line); }
ol { list-style: none; margin: 1rem 0 0; padding: 0; }
li { padding-left: 3.2rem; position: relative; overflow-wrap: anywhere; }
li::before { content: attr(value); position: absolute; left: 0; width: 2.6rem; text-align: right; color: var(--quiet);
             font-size: .75rem; }
b { font-weight: inherit; position: relative; unicode-bidi: isolate; border-radius: .2rem; padding: .08rem .18rem;
    color: var(--ink); }
b.unknown { text-decoration: underline dotted; }
b:hover, b:focus { outline: 2px solid var(--ink); outline-offset: 1px; }
b:hover::after, b:focus::after { content: attr(data-n); position: fixed; left: 50%%; bottom: 1rem; z-index: 2;
  transform: translateX(-50%%); width: max-content; max-width: calc(100vw - 2rem); padding: .5rem .8rem;
  border-radius: .4rem; background: var(--ink); color: var(--page); font-size: .95rem; line-height: 1.4; }
ol:has(b:hover) b:focus:not(:hover)::after { content: none; }
@media (max-width: 30rem) { li { padding-left: 0; } li::before { position: static; display: inline-block; width: auto;
  margin-right: .5rem; } }
"""


def page(text, logprobs, ranks, title):
    """HTML of a `Text` with its words' log-probabilities in nats and ranks (1 is the likeliest), or None for these.

    The numbers of a word appear when the pointer is over it, and when it is focused: with the tabulator, or by a tap.
    """
    words, unknown = text.words, sum(text.unknown)
    bits = [-logprob / math.log(2) for logprob in logprobs]
    mean = math.fsum(bits) / len(bits)
    shown = min(len(words), MOST)
    about = f"{counted(len(words), 'words')}, {mean:.2f} bits each on average, perplexity {2 ** min(mean, 1000):,.6g}"
    if unknown:
        about += f"; {unknown:,} of them, underlined, are unknown and scored as &lt;unk&gt;"
    if shown < len(words):
        about += f"; here are the first {shown:,}"
    shades = "\n".join(f".s{i} {{ background: {colour}; }}" for i, colour in enumerate(LIGHT))
    dark = "\n".join(f"  .s{i} {{ background: {colour}; }}" for i, colour in enumerate(DARK))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE % {"light": shades, "dark": dark}}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="about">{about}. Choose a word, with the pointer, the tabulator or a tap, to see its numbers.</p>
<div class="legend" role="note">surprisal in bits: {legend()}</div>
<ol>
{lines(text, shown, bits, logprobs, ranks)}
</ol>
</body>
</html>
"""


def legend():
    names = [f"under {STEPS[0]}", *(f"{low} to {high}" for low, high in zip(STEPS, STEPS[1:])), f"{STEPS[-1]} and more"]
    return "".join(f'<span class="s{i}">{name}</span>' for i, name in enumerate(names))


def lines(text, shown, bits, logprobs, ranks):
    """The first `shown` words as items of a list, one for each line of the text."""
    def word(i):
        numbers = f"{text.words[i]}: {bits[i]:.2f} bits, probability {math.exp(logprobs[i]):.3g}"
        if ranks:
            numbers += f", rank {ranks[i]:,}"
        shade, unknown = sum(bits[i] >= step for step in STEPS), ""
        if text.unknown[i]:
            numbers, unknown = f"{numbers}, unknown: scored as <unk>", " unknown"
        return f'<b class="s{shade}{unknown}" tabindex="0" data-n="{escape(numbers)}">{escape(text.words[i])}</b>'
    return "\n".join(item(number, map(word, places)) for number, places in by_line(text.ends[:shown]))


def item(number, words):
    """A line of the text, whose language is not known; its letters say in which direction it is written."""
    return f'<li value="{number}" lang="" dir="auto">{" ".join(words)}</li>'
