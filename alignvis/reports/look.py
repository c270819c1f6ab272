"""How the page looks: on a phone and on a desk, in light and in dark, on paper. Nothing is fetched for it."""

COLOURS = """
:root { color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #525a63; --line: #d8dde3; --fill: #f4f6f8; --link: #0a58a5;
  --aligned: #005f99; --plain: #a84300; --warn-ink: #7a3300; --warn-fill: #fff0e3; --warn-line: #d98a4e; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171b; --ink: #e7eaed; --soft: #aab3bc; --line: #3a4148; --fill: #1e2328; --link: #84bdf7;
  --aligned: #6db8f0; --plain: #ff9b5e; --warn-ink: #ffc08f; --warn-fill: #372313; --warn-line: #9c5b2a; } }
"""
PAGE = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial,
  sans-serif; }
.page { max-width: 86rem; margin: 0 auto; padding: 1.25rem 1rem 4rem; }
main > *, header > * { max-width: 46rem; }
main section { max-width: none; } main section > * { max-width: 46rem; }
main section > .wide, main section > figure, main section > h2 { max-width: 100%; }
h1 { font-size: clamp(1.5rem, 1.1rem + 1.8vw, 2.1rem); line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 2.8rem 0 .8rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; line-height: 1.35; margin: 1.9rem 0 .5rem; }
p { margin: .6rem 0; } ul { padding-left: 1.2rem; margin: .6rem 0; } li { margin: .2rem 0; }
a { color: var(--link); text-underline-offset: .15em; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.lead { color: var(--soft); margin-top: 0; }
.note, .source, .caption, figcaption { color: var(--soft); font-size: .875rem; line-height: 1.45; }
.warn { background: var(--warn-fill); color: var(--warn-ink); border: 1px solid var(--warn-line); border-radius: 6px;
  padding: .65rem .9rem; margin: 1rem 0; } .warn strong { letter-spacing: .04em; }
.missing { border-left: 3px solid var(--line); padding: .15rem 0 .15rem .8rem; color: var(--soft); }
.answer { font-size: 1.125rem; line-height: 1.5; }
nav { font-size: .9rem; margin: 1.4rem 0; } nav ol { list-style: none; margin: 0; padding: 0; }
nav li { margin: 0; } nav a { display: inline-block; padding: .2rem 0; text-decoration: none; }
nav a:hover { text-decoration: underline; }
nav h2 { font-size: .8rem; text-transform: uppercase; letter-spacing: .06em; color: var(--soft); border: 0;
  margin: 0 0 .3rem; padding: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: 1.2rem 0;
  padding: 0; list-style: none; }
.cards li { background: var(--fill); border: 1px solid var(--line); border-radius: 8px; padding: .8rem .9rem;
  margin: 0; }
.cards b { display: block; font-size: 1.7rem; line-height: 1.15; font-weight: 650; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }
.cards span { display: block; font-size: .85rem; line-height: 1.35; color: var(--soft); }
.cards .aligned b, .aligned-mark { color: var(--aligned); } .cards .plain b, .plain-mark { color: var(--plain); }
"""
PARTS = """
.caption { margin: 1.6rem 0 .3rem; } .caption strong { color: var(--ink); } .source { margin-top: .4rem; }
figure + .source { margin-top: -.9rem; }
.wide { overflow-x: auto; margin: .3rem 0 .4rem; } .wide:focus-visible { outline-offset: 0; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.35; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
th, td { padding: .38rem .6rem .38rem 0; vertical-align: top; border-bottom: 1px solid var(--line); text-align: left;
  font-weight: 400; }
th:last-child, td:last-child { padding-right: .2rem; }
thead th { font-weight: 600; border-bottom: 2px solid var(--soft); vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; } thead .number { white-space: normal; }
.whole { white-space: nowrap; }
.around, .second { display: block; font-size: .75rem; color: var(--soft); font-weight: 400; }
.around { white-space: nowrap; } .second { min-width: 8rem; }
.name { min-width: 5rem; max-width: 26rem; } .name + .name { min-width: 8.5rem; }
tbody code { overflow-wrap: anywhere; }
tbody tr:hover { background: var(--fill); }
dl { margin: .8rem 0; } dl > div { display: grid; grid-template-columns: 11rem 1fr; gap: .2rem 1rem; padding: .4rem 0;
  border-bottom: 1px solid var(--line); } dt { color: var(--soft); } dd { margin: 0; }
code { font: .85em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
pre { background: var(--fill); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem; margin: .8rem 0;
  white-space: pre-wrap; } pre code { display: block; padding: .15rem 0 .15rem 2ch; text-indent: -2ch; }
figure { margin: 1.4rem 0; } figcaption { margin-top: .5rem; max-width: 46rem; }
.card { background: #ffffff; border: 1px solid var(--line); border-radius: 6px; padding: .6rem; overflow-x: auto; }
.card img { display: block; width: 100%; max-width: 60rem; height: auto; min-width: 34rem; margin: 0 auto; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .8rem; color: var(--soft);
  font-size: .875rem; }
@media (max-width: 36rem) { dl > div { grid-template-columns: 1fr; }
  th, td { padding-right: .45rem; } thead th { font-size: .8rem; } thead .around { white-space: normal; }
  .name:first-child { position: sticky; left: 0; z-index: 1; min-width: 7.5rem; max-width: 9rem;
  overflow-wrap: anywhere; background: var(--paper); } .second { min-width: 7rem; }
  tr:hover .name:first-child { background: var(--fill); }
  figcaption::after { content: " (The figure is wider than this screen and scrolls sideways.)"; } }
@media (min-width: 76rem) { .name { overflow-wrap: anywhere; } thead .name { overflow-wrap: normal; }
  .page { display: grid; grid-template-columns: 10.5rem minmax(0, 1fr); column-gap: 2rem; }
  header, main, footer { grid-column: 2; } nav { grid-column: 1; grid-row: 1 / span 3; position: sticky; top: 1.25rem;
  align-self: start; max-height: calc(100vh - 2.5rem); overflow-y: auto; margin: 0; } }
"""
PRINT = """
@media print {
  :root { color-scheme: light; --paper: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb; --fill: #f6f6f6;
    --link: #000000; --aligned: #005f99; --plain: #a84300; --warn-ink: #7a3300; --warn-fill: #ffffff;
    --warn-line: #d98a4e; }
  @page { margin: 15mm; }
  body { font-size: 10pt; } .page { display: block; max-width: none; padding: 0; } nav { display: none; }
  main > *, main section > *, header > * { max-width: none; }
  h1, h2, h3, .caption { break-after: avoid; } figure, tr, .cards, .warn, dl > div { break-inside: avoid; }
  pre code { break-inside: avoid; }
  .wide, .card { overflow: visible; border: 0; padding: 0; } .card img { min-width: 0; max-width: 100%;
    max-height: 22cm; width: auto; }
  table { font-size: 7.5pt; width: 100%; } .number { white-space: normal; } thead { display: table-header-group; }
  .name, .name + .name { min-width: 2cm; overflow-wrap: anywhere; }
  thead .name { overflow-wrap: normal; } thead .number { min-width: 0; }
  .around, .second { font-size: 6.5pt; min-width: 0; } th, td { padding-right: .4rem; } a { text-decoration: none; }
}
"""
STYLE = COLOURS + PAGE + PARTS + PRINT
