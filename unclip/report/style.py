"""How the page looks: one style sheet, light and dark, wide and narrow."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #ffffff; --ink: #1f2328; --soft: #646b73; --line: #e4e1da;
  --accent: #0f766e; --s0: #0f766e; --s1: #b45309; --s2: #6d5bd0; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1c2024; --ink: #e7e9ea; --soft: #9aa3ab;
  --line: #2e343a; --accent: #5ec7bb; --s0: #5ec7bb; --s1: #e3a452; --s2: #a99cf5; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
header h1 { font-size: 34px; line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 6px; }
header p { margin: 0; color: var(--soft); }
nav { margin-top: 18px; display: flex; flex-wrap: wrap; gap: 6px 18px; font-size: 14px; }
nav a { color: var(--accent); text-decoration: none; }
nav a:hover { text-decoration: underline; }
section { margin-top: 48px; }
h2 { font-size: 22px; letter-spacing: -0.01em; margin: 0 0 4px; }
h3 { font-size: 15px; margin: 20px 0 6px; }
.lead { color: var(--soft); margin: 0 0 16px; max-width: 74ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(158px, 1fr)); gap: 12px; margin-top: 28px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile span, .tile small { display: block; color: var(--soft); font-size: 13px; }
.tile strong { display: block; font-size: 27px; line-height: 1.3; font-weight: 620;
  font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 8px 12px; text-align: left; white-space: nowrap; vertical-align: top; }
th { color: var(--soft); font-weight: 560; border-bottom: 1px solid var(--line); font-size: 13px; }
th[title] { text-decoration: underline dotted var(--line); text-underline-offset: 4px; cursor: help; }
tbody tr + tr td { border-top: 1px solid var(--line); }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--card); }
.num { text-align: right; font-variant-numeric: tabular-nums; }
.mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 13px; }
.best { font-weight: 680; color: var(--accent); }
.faint { color: var(--soft); }
.narrow { max-width: 620px; }
.after { margin-top: 12px; font-size: 14px; }
.sample { padding: 14px 0 16px; border-top: 1px solid var(--line); }
.sample > p { margin: 0 0 8px; font-size: 15px; }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--accent); }
details img { max-width: 100%; display: block; margin: 8px 0; border-radius: 10px; }
.strip { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 10px; }
.strip figure { margin: 0; }
.strip img { width: 100%; display: block; border-radius: 6px; aspect-ratio: 1; object-fit: cover;
  background: var(--line); outline: 1px solid var(--line); outline-offset: -1px; }
.strip figcaption { font-size: 12px; line-height: 1.35; color: var(--soft); margin-top: 4px; overflow-wrap: anywhere;
  hyphens: auto; }
.strip .truth img { outline: 2px solid var(--accent); outline-offset: 2px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px; }
.chart { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 14px 8px; }
.chart figcaption { font-size: 14px; font-weight: 560; }
.chart figcaption small { color: var(--soft); font-weight: 400; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
svg text { fill: var(--soft); font-size: 10px; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg path { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
svg .s0 { stroke: var(--s0); }
svg .s1 { stroke: var(--s1); }
svg .s2 { stroke: var(--s2); }
svg .raw { stroke: var(--s0); opacity: .28; stroke-width: 1; }
.key { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12px; color: var(--soft); }
.key i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; vertical-align: middle;
  margin-right: 5px; }
footer { margin-top: 56px; color: var(--soft); font-size: 13px; border-top: 1px solid var(--line);
  padding-top: 14px; }
@media (max-width: 640px) { main { padding: 24px 16px 48px; } header h1 { font-size: 27px; }
  .strip { grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 8px; } .strip figcaption { font-size: 11px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } .tile strong { font-size: 23px; }
  td:first-child, th:first-child { max-width: 44vw; white-space: normal; } }
@media print { section { break-inside: avoid; } .scroll { overflow: visible; } }
"""
