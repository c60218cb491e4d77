"""The style sheet of the report: light and dark, screen, phone and paper."""

from __future__ import annotations

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f7f8; --card: #ffffff; --ink: #16191d; --soft: #5d6670; --line: #dfe3e7;
  --dense: #a9b3bd; --sparse: #0a7d74; --good: #0a7d74; --warn: #9a5b00; --warn-back: #fff4de;
  --good-back: #e2f4f1; --plain-back: #eceff2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101316; --card: #181c20; --ink: #e7eaed; --soft: #98a2ad; --line: #2b3138;
    --dense: #59636e; --sparse: #3cc0b2; --good: #55cfc2; --warn: #f0b658; --warn-back: #33270f;
    --good-back: #10302d; --plain-back: #23292f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  -webkit-text-size-adjust: 100%; text-size-adjust: 100%;
}
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header .kind { color: var(--soft); font-size: .85rem; letter-spacing: .02em; margin: 0; }
h1 { font-size: 1.7rem; line-height: 1.2; font-weight: 650; margin: .1rem 0 .9rem;
  letter-spacing: -.015em; }
h2 { font-size: 1.02rem; font-weight: 650; margin: 0 0 .7rem; }
h3 { font-size: .95rem; font-weight: 600; margin: 1.3rem 0 .25rem; }
p { margin: .4rem 0; max-width: 46rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.15rem 1.3rem; margin: 1rem 0; }
.soft { color: var(--soft); }
.small { font-size: .86rem; }
.name, code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  font-size: .86em; overflow-wrap: anywhere; }
.verdict { display: inline-block; border-radius: 1rem; padding: .28rem .85rem; font-weight: 600;
  background: var(--plain-back); }
.verdict.good { color: var(--good); background: var(--good-back); }
.verdict.warn { color: var(--warn); background: var(--warn-back); }
.alert { color: var(--warn); background: var(--warn-back); border-radius: 8px;
  padding: .7rem 1rem; margin: 1rem 0 0; max-width: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: .82rem;
  white-space: nowrap; }
th, td { padding: .38rem .9rem .38rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
tbody tr:last-child td { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
.totals td:first-child { color: var(--soft); }
.totals td:nth-child(3) { font-weight: 600; }
.layers { font-size: .84rem; }
.layers td:nth-child(n+2):not(:last-child) { white-space: nowrap; }
.layers td:first-child { min-width: 12rem; }
.layers td:last-child { min-width: 15rem; }
.layers td .name { white-space: normal; }
.layers td:nth-last-child(2) { min-width: 10rem; }
.kernels { font-size: .84rem; }
.chart { display: grid; grid-template-columns: minmax(7rem, 20rem) 1fr auto; gap: .45rem .9rem;
  align-items: center; font-size: .84rem; }
.chart .name { direction: ltr; }
.chart svg { display: block; width: 100%; height: 17px; }
.chart .number { color: var(--soft); font-variant-numeric: tabular-nums; }
.rail { fill: var(--plain-back); }
.dense { fill: var(--dense); }
.sparse { fill: var(--sparse); }
.frozen { fill: var(--warn-back); stroke: var(--warn); stroke-width: .6; }
.hit { fill: transparent; }
.hit:hover { fill: var(--ink); fill-opacity: .08; }
svg.widths { display: block; margin: .4rem 0; }
.unused { fill: none; stroke: var(--sparse); stroke-opacity: .7; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; margin: 0 0 .9rem; color: var(--soft);
  font-size: .84rem; }
.legend svg { width: .75rem; height: .75rem; margin-right: .4rem; vertical-align: -.06rem; }
ul { margin: .35rem 0; padding-left: 1.15rem; max-width: 46rem; }
li { margin: .2rem 0; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .3rem 1.4rem;
  margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin: .5rem 0 0; }
summary { cursor: pointer; color: var(--soft); font-size: .86rem; }
details[open] > summary { margin-bottom: .5rem; }
pre { margin: 0; overflow-x: auto; font-size: .82rem; line-height: 1.45;
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
footer { color: var(--soft); font-size: .82rem; margin-top: 1.4rem; }
@media (max-width: 40rem) {
  main { padding: 1.4rem .8rem 3rem; }
  section { padding: 1rem .9rem; }
  h1 { font-size: 1.35rem; }
  .chart { grid-template-columns: 1fr auto; }
  .chart .name { grid-column: 1 / -1; margin-top: .35rem; }
  .totals { font-size: .84rem; }
  .totals th, .totals td { padding-right: .5rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
}
@media print {
  :root { color-scheme: light; --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb;
    --dense: #a9b3bd; --sparse: #0a7d74; --good: #0a5e57; --warn: #7a4700; --warn-back: #fff4de;
    --good-back: #e2f4f1; --plain-back: #eceff2; }
  body { font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  section { border: 0; border-top: 1px solid var(--line); border-radius: 0; padding: .8rem 0; }
  .scroll { overflow: visible; }
  tr, .alert { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
