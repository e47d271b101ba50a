"""The report's style sheet: light, system fonts only, laid out for A4 in print.

The colours can be told apart by a colour-blind reader (Okabe and Ito, Color Universal Design, 2008), and a word, a
shape or a dash doubles every one of them.
"""

STYLE = """
:root {
  --ink: #17212b; --muted: #5a6773; --faint: #8793a0; --rule: #d5dce3; --hair: #e8ecf0; --wash: #f5f7f9;
  --pass: #00694f; --pass-wash: #e8f4f0; --fail: #b3261e; --fail-wash: #fbedec; --open: #8a5300; --open-wash: #fcf3e4;
  --s0: #4a5663; --s1: #0072b2; --s2: #b86b00; --s3: #a2528a; --s4: #2c93c7; --s5: #8c98a4;
  --serif: "Charter", "Bitstream Charter", "Source Serif 4", "Sitka Text", Cambria, Georgia, "Liberation Serif", serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", "Liberation Mono", Menlo, Consolas, monospace;
}
* { box-sizing: border-box; }
html { background: #fff; color: var(--ink); -webkit-text-size-adjust: 100%; }
body { font: 15px/1.55 var(--sans); margin: 0; font-variant-numeric: tabular-nums lining-nums;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
main { max-width: 980px; margin: 0 auto; padding: 56px 40px 72px; }
h1, h2, h3 { font-family: var(--serif); font-weight: 600; line-height: 1.2; margin: 0; text-wrap: balance; }
h1 { font-size: 38px; letter-spacing: -0.012em; margin: 10px 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 24px; letter-spacing: -0.006em; padding-top: 18px; border-top: 1px solid var(--rule); display: flex;
  gap: 14px; }
h2 .no { color: var(--faint); font-weight: 400; min-width: 1em; }
h3 { font-size: 17px; margin: 26px 0 8px; }
p { margin: 0 0 12px; max-width: 72ch; }
section { margin-top: 58px; }
section > .lead { margin: 10px 0 20px; color: var(--muted); }
.eyebrow { font-size: 12px; letter-spacing: 0.09em; text-transform: uppercase; color: var(--muted); font-weight: 600;
  display: flex; justify-content: space-between; gap: 24px; }
.use { font: italic 18px/1.5 var(--serif); color: #33404c; max-width: 60ch; margin: 0; }
.ids { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 20px 0 0; font-size: 13px; color: var(--muted); }
.ids b { font-weight: 500; color: var(--ink); font-family: var(--mono); font-size: 12.5px; }
.note { color: var(--muted); font-size: 13px; line-height: 1.5; max-width: 88ch; margin: 10px 0 0; }
.wide { overflow-x: auto; margin: 0 -12px; padding: 0 12px; }

.verdict { margin: 34px 0 0; border-radius: 6px; border: 1px solid; border-left-width: 10px; padding: 26px 30px 24px;
  display: grid; grid-template-columns: auto 1fr; gap: 6px 24px; align-items: center; }
.verdict svg { width: 58px; height: 58px; display: block; }
.verdict .word { font: 600 44px/1 var(--serif); letter-spacing: 0.01em; }
.verdict .means { grid-column: 2; margin: 0; font-size: 16px; color: var(--ink); max-width: 66ch; }
.verdict ul { grid-column: 2; margin: 10px 0 0; padding: 0; list-style: none; font-size: 14px; }
.verdict li { padding: 6px 0 6px; border-top: 1px solid #0000001a; display: grid; gap: 2px 16px;
  grid-template-columns: 132px 1fr; }
.verdict li b { font-weight: 600; }
.verdict li .where { color: var(--muted); }
.pass { --c: var(--pass); --w: var(--pass-wash); } .fail { --c: var(--fail); --w: var(--fail-wash); }
.inconclusive { --c: var(--open); --w: var(--open-wash); }
.verdict.pass, .verdict.fail, .verdict.inconclusive { border-color: var(--c); background: var(--w); }
.verdict .word, .mark { color: var(--c); }
.mark { font-weight: 600; white-space: nowrap; }
.mark svg { display: inline-block; width: 14px; height: 14px; vertical-align: -2px; margin-right: 6px; }
.glyph { fill: none; stroke: var(--c); stroke-width: 2.2; stroke-linecap: round; stroke-linejoin: round; }
.glyph .body { fill: var(--c); stroke: none; } .glyph .sign { stroke: #fff; }

.tiles { display: grid; grid-template-columns: repeat(4, 1fr); margin: 30px 0 0; border-bottom: 1px solid var(--rule); }
.tile { padding: 4px 18px 18px; border-left: 1px solid var(--rule); }
.tile:first-child { border-left: 0; padding-left: 0; }
.tile .label { font-size: 13px; color: var(--muted); }
.tile .figure { font: 600 32px/1.25 var(--serif); white-space: nowrap; }
.tile .figure small { font: 400 15px var(--sans); color: var(--muted); }
.tile .detail { font-size: 12.5px; color: var(--muted); line-height: 1.45; }

table { border-collapse: collapse; width: 100%; font-size: 13.5px; line-height: 1.4; }
th, td { text-align: right; padding: 8px 0 8px 16px; vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { font-weight: 500; font-size: 12.5px; color: var(--muted); vertical-align: bottom;
  border-bottom: 1.5px solid var(--ink); padding-bottom: 7px; }
tbody td, tbody th { border-bottom: 1px solid var(--hair); font-weight: 400; }
tbody th { text-align: left; }
tbody tr:last-child > * { border-bottom-color: var(--rule); }
td { white-space: nowrap; }
td.text, th.text { text-align: left; }
td.text { white-space: normal; }
td .sub.wrap { white-space: normal; }
td .sub, th .sub { display: block; color: var(--muted); font-size: 12px; font-weight: 400; white-space: nowrap; }
td.plot, th.plot { width: 248px; padding-top: 3px; padding-bottom: 3px; vertical-align: middle; }
tr.required > * { background: var(--wash); }
tr.required > :first-child { box-shadow: -12px 0 0 var(--wash); }
tr.required > :last-child { box-shadow: 12px 0 0 var(--wash); }
tr.required th { font-weight: 600; }
tr.harm > * { background: var(--fail-wash); } tr.harm th { font-weight: 600; }
tr.harm > :first-child { box-shadow: -12px 0 0 var(--fail-wash); } tr.harm > :last-child { box-shadow: 12px 0 0
  var(--fail-wash); }
thead tr + tr th:first-child { text-align: right; padding-left: 16px; }
tr.scale th { color: var(--muted); font-size: 12.5px; vertical-align: bottom; padding-top: 14px; }
tr.scale td { vertical-align: bottom; }
table.groups th:first-child { min-width: 150px; max-width: 190px; overflow-wrap: anywhere; }
.wide.apart { margin-top: 26px; }
table.checks th:first-child { width: 27%; } table.checks td:nth-child(2) { padding-right: 8px; }
table.tight { font-size: 13px; } table.tight th, table.tight td { padding: 6px 0 6px 12px; }
table.tight th:first-child { padding-left: 0; } thead th.span { text-align: center; border-bottom: 1px solid
  var(--rule); }
tr.group th { padding-top: 18px; font-weight: 600; border-bottom-color: var(--rule); }
svg.key { display: inline-block; width: 14px; height: 14px; vertical-align: -2px; margin-right: 7px; }
.mark-solid { fill: var(--k); stroke: #fff; stroke-width: 0.8; }
.mark-hollow { fill: #fff; stroke: var(--k); stroke-width: 1.8; }
.s0 { --k: var(--s0); } .s1 { --k: var(--s1); } .s2 { --k: var(--s2); } .s3 { --k: var(--s3); } .s4 { --k: var(--s4); }
.s5 { --k: var(--s5); }

svg { display: block; max-width: 100%; } svg text { font: 11px var(--sans); fill: var(--muted); }
svg text.middle { text-anchor: middle; } svg text.end { text-anchor: end; }
svg text.axis { font-size: 12px; fill: var(--ink); }
svg text.row-name { font-size: 12.5px; fill: var(--ink); } svg text.value { font-size: 11.5px; fill: var(--ink);
  font-weight: 600; paint-order: stroke; stroke: #fff; stroke-width: 3px; }
svg.curve { width: 100%; height: auto; max-width: 420px; }
svg.curve text { font-size: 8.8px; } svg.curve text.axis { font-size: 9.6px; }
svg.latency, svg.drawing { width: 100%; height: auto; }
.thirds svg.curve text { font-size: 10.5px; } .thirds svg.curve text.axis { font-size: 12px; }
.pareto text.row-name { paint-order: stroke; stroke: #fff; stroke-width: 4px; }
.grid { stroke: var(--hair); } .chance { stroke: var(--faint); stroke-dasharray: 2 4; }
.line { fill: none; stroke: var(--k); stroke-width: 2; stroke-linejoin: round; }
.line.s0 { stroke-width: 3.2; stroke: #9aa5b0; } .line.s2 { stroke-dasharray: 7 3; } .line.s3 { stroke-dasharray: 2 3; }
.line.s4 { stroke-dasharray: 9 3 2 3; }
.line.thin, .line.thin.s0 { stroke-width: 1.4; stroke: var(--k); } .line.before { stroke-dasharray: 2 3; }
.error { stroke: var(--k); stroke-width: 1.4; }
.count { fill: #dde3e9; }
.cloud { fill: none; stroke: #7d8995; stroke-width: 3.2; stroke-linecap: round; opacity: 0.75; }
.cloud.plus { stroke: #43505c; stroke-width: 1; stroke-linecap: butt; opacity: 1; }
.cloud.large { stroke-width: 5; }
.threshold { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 5 3; }
.harmful { fill: var(--fail); stroke: #fff; stroke-width: 0.8; }
.beneficial { fill: #fff; stroke: var(--s1); stroke-width: 2; }
.front { fill: none; stroke: #c3ccd4; stroke-width: 5; stroke-linejoin: round; }
.dominated { stroke: var(--muted); stroke-width: 1.4; } svg text.dim { fill: var(--muted); font-style: italic; }
.leader { stroke: var(--faint); stroke-width: 0.8; }
.stage { stroke: var(--ink); stroke-width: 0.8; } .stage-pattern { fill: none; }
.t0 { fill: #fff; } .t1 { fill: #cfd8e0; } .t2 { fill: var(--s1); } .t3 { fill: var(--ink); }
.stage-pattern.p1 { fill: url(#dotted); } .stage-pattern.p2 { fill: url(#striped); }
.paper-line { stroke: #fff; stroke-width: 1.4; opacity: 0.55; } .ink { fill: #46525e; }
svg.swatch { display: inline-block; width: 26px; height: 14px; vertical-align: -2px; margin-right: 8px; }
.halo { fill: #fff; stroke: var(--k); stroke-width: 1.4; }
.dots { fill: var(--k); opacity: 0.33; } .latency rect { fill: #fff; fill-opacity: 0.75; stroke: var(--k);
  stroke-width: 1.5; }
.latency .whisker { stroke: var(--k); stroke-width: 1.5; } .latency .median { stroke: var(--k); stroke-width: 3.5; }
.latency .p99 { fill: #fff; stroke: var(--k); stroke-width: 1.5; }
.forest { margin-left: auto; overflow: visible; }
.zero { stroke: var(--ink); stroke-width: 1; }
.reference { stroke: var(--fail); stroke-width: 1.2; stroke-dasharray: 1 3; }
svg text.side { font-size: 10.5px; }
.margin { stroke: var(--fail); stroke-width: 1.2; stroke-dasharray: 3 2; }
.inferior { fill: url(#hatch); } .interval { stroke: var(--s1); stroke-width: 2.2; } .dot { fill: var(--s1); }
.interval.free { stroke: var(--faint); stroke-width: 1.6; } .dot.free { fill: #fff; stroke: var(--faint);
  stroke-width: 1.6; }
.hatch-line { stroke: #b3261e; stroke-width: 1; opacity: 0.38; }

.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 12px 48px; }
.thirds { display: grid; grid-template-columns: repeat(3, 1fr); gap: 12px 26px; margin-top: 18px; }
figure { margin: 0 0 8px; } figcaption { font-size: 13.5px; font-weight: 600; margin: 0 0 6px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 26px; margin: 16px 0 18px; font-size: 13px; }
.legend svg { display: inline-block; vertical-align: 0; margin-right: 8px; }
.matrices { display: flex; flex-wrap: wrap; gap: 26px 24px; }
.matrix { width: auto; font-size: 13px; } .matrix caption { text-align: left; font-weight: 600; padding: 0 0 8px;
  font-size: 13.5px; } .matrix caption .sub { display: block; font-weight: 400; color: var(--muted); font-size: 12px; }
.matrix td, .matrix th { padding: 8px 9px; border: 0 !important; text-align: center; vertical-align: middle; }
.matrix thead th { border: 0; padding: 2px 12px 6px; } .matrix tbody th { text-align: right; color: var(--muted);
  font-size: 12.5px; padding-left: 0; max-width: 104px; }
.matrix { border-collapse: separate; border-spacing: 2px; }
.matrix td { min-width: 72px; background: color-mix(in srgb, var(--k) var(--share), #fff); }
.matrix td b { font-size: 17px; font-weight: 600; display: block; } .matrix td span { font-size: 12px; }
.matrix td.off { outline: 1px dashed #8793a0; outline-offset: -5px; }
.matrix td:empty { background: none; min-width: 0; }
dl { display: grid; grid-template-columns: 190px 1fr; gap: 0; margin: 8px 0 0; font-size: 13.5px; }
dt { color: var(--muted); padding: 6px 16px 6px 0; border-bottom: 1px solid var(--hair); }
dd { margin: 0; padding: 6px 0; border-bottom: 1px solid var(--hair); overflow-wrap: anywhere; }
.rules { margin: 6px 0 18px; }
dd code, code { font: 12.5px var(--mono); } dd ol { margin: 0; padding-left: 1.3em; }
a { color: #005a8c; text-decoration-thickness: 1px; text-underline-offset: 2px; }
.part { margin: 76px 0 -26px; padding: 14px 0 0; border-top: 4px solid var(--ink); display: flex; gap: 22px;
  align-items: baseline; } .part p { margin: 0; } .part p:last-child { font: italic 17px var(--serif); color:
  var(--muted); }
.part .eyebrow { color: var(--ink); }
.contents { display: grid; grid-template-columns: 0.9fr 2fr 0.75fr; gap: 16px 34px; margin: 34px 0 0; font-size: 13px; }
.contents > div:nth-child(2) { grid-row: 2; } .contents > div:nth-child(3) { grid-column: 2; grid-row: 1 / 3; }
.contents > div:nth-child(3) ul { columns: 2; column-gap: 26px; }
.contents > div:nth-child(4) { grid-column: 3; grid-row: 1 / 3; }
.contents ul { list-style: none; margin: 0; padding: 0; } .contents .eyebrow { font-size: 10.5px; margin: 0 0 6px;
  display: block; } .contents a { color: var(--ink); text-decoration: none; display: flex; gap: 8px; padding: 2px 0;
  break-inside: avoid; }
.contents .no { color: var(--faint); min-width: 1.3em; text-align: right; }
.plain { margin: 10px 0 14px; font-size: 14px; } .limits { font-size: 14px; padding-left: 1.5em; max-width: 82ch; }
.limits li { padding: 4px 0 4px 6px; } .limits li::marker { color: var(--faint); }
.worst { border-left: 4px solid var(--ink); background: var(--wash); padding: 10px 16px; font-size: 13.5px; margin:
  14px 0 0;
  max-width: none; }
.caution { border-left: 4px solid var(--open); background: var(--open-wash); padding: 10px 16px; font-size: 13.5px;
  margin: 14px 0 0; max-width: none; }
footer { margin-top: 64px; padding-top: 16px; border-top: 1.5px solid var(--ink); font-size: 12.5px;
  color: var(--muted); }

@media screen and (max-width: 760px) {
  main { padding: 28px 18px 48px; } h1 { font-size: 30px; } .pair { grid-template-columns: 1fr; }
  .contents { display: block; } .contents > div { margin: 0 0 12px; } .part { flex-wrap: wrap; gap: 2px 22px; }
  .tiles { grid-template-columns: 1fr 1fr; row-gap: 14px; } .tile:nth-child(odd) { border-left: 0; padding-left: 0; }
  dl { grid-template-columns: 1fr; } dt { border: 0; padding-bottom: 0; }
}
@page { size: A4; margin: 15mm 15mm 17mm; @bottom-right { content: counter(page) " / " counter(pages);
  font: 8pt sans-serif; color: #5a6773; } }
@media print {
  body { font-size: 9.6pt; line-height: 1.45; } main { max-width: none; padding: 0; } h1 { font-size: 24pt; }
  h2 { font-size: 15.5pt; padding-top: 10pt; } h3 { font-size: 11.5pt; margin-top: 14pt; } section { margin-top: 24pt; }
  h2, h3, .lead, .legend, figcaption, thead { break-after: avoid; } thead { display: table-header-group; }
  tr, figure, .keep, .legend, .matrix, .verdict, .tiles, .caution, .worst, .part, .contents, .limits li, dt, dd {
  break-inside:
  avoid; }
  table { font-size: 8.6pt; } th, td { padding: 4.5pt 0 4.5pt 8pt; } td .sub, th .sub { font-size: 7.8pt; }
  td.plot, th.plot { width: 182px; min-width: 182px; } table.groups th:first-child { min-width: 0; } .forest { width:
  172px; height: auto; } .wide { overflow: visible;
    margin: 0; padding: 0; }
  .verdict { padding: 16pt 18pt; margin-top: 18pt; }
  .verdict .word { font-size: 28pt; } .verdict .means { font-size: 10.5pt; }
  .verdict ul, .note, .legend, dl, .caution { font-size: 8.8pt; } .use { font-size: 11.5pt; }
  .tile .figure { font-size: 19pt; }
  .tile { padding: 2pt 10pt 10pt; } .tile .detail, .tile .label, .ids { font-size: 8.2pt; } .pair { gap: 8pt 20pt; }
  .part { margin-top: 34pt; break-after: avoid; } .contents { font-size: 8.4pt; gap: 6pt 14pt; } a { color: inherit;
    text-decoration: none; } .plain, .limits { font-size: 9pt; } .worst { font-size: 8.8pt; } table.tight { font-size:
  7.8pt; }
  .lead { break-inside: avoid; } .matrices { gap: 12pt 14pt; } .matrix td { min-width: 46px; padding: 5pt; }
  .matrix th, .matrix thead th { padding: 3pt; font-size: 7.4pt; }
  .matrix tbody th { max-width: 58px; font-size: 7.4pt; }
  .matrix td b { font-size: 11pt; }
  dl { grid-template-columns: 130px 1fr; } dt, dd { padding-top: 3pt; padding-bottom: 3pt; }
  footer { margin-top: 26pt; font-size: 8.2pt; }
}
"""
