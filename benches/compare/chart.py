#!/usr/bin/env python3
"""Makes the table and the chart of docs/performance.md from the figures that `run` wrote.

    chart.py docs/performance.json            writes docs/performance.svg, and the table into docs/performance.md
    chart.py --check docs/performance.json    changes nothing, and fails if either is not what the figures say

Rows and charts of which there are no figures are left out.
"""
import argparse
import html
import json
import pathlib
import statistics
import sys

BEGIN, END = "<!-- figures: made by benches/compare/chart.py -->", "<!-- end of the figures -->"



def honest(scenario):
    """What became of the honest client's submissions."""
    return [(scenario, "submission_ms.p50"), (scenario, "submission_ms.p99"), (scenario, "accepted_of_100"), (scenario, "growth_mib")]


# What a row says, and the figures in it: scenario and key of each.
ROWS = [
    ("messages/s, one per connection, STARTTLS: 1 / 16 / 64 clients",
     [("starttls-1", "messages_per_s"), ("starttls-16", "messages_per_s"), ("starttls-64", "messages_per_s")]),
    ("the same, implicit TLS",
     [("implicit-1", "messages_per_s"), ("implicit-16", "messages_per_s"), ("implicit-64", "messages_per_s")]),
    ("messages/s, 100 per connection: 1 / 16 / 64 clients",
     [("reuse-1", "messages_per_s"), ("reuse-16", "messages_per_s"), ("reuse-64", "messages_per_s")]),
    ("the same, pipelining, 16 clients", [("pipelining-16", "messages_per_s")]),
    ("ms from MAIL to 250, 100 per connection, 64 clients: median / 99th percentile",
     [("reuse-64", "message_ms.p50"), ("reuse-64", "message_ms.p99")]),
    ("ms from connect to logged in, 1 client: STARTTLS / implicit TLS",
     [("starttls-1", "setup_ms.p50"), ("implicit-1", "setup_ms.p50")]),
    ("ms of server CPU per message, 64 clients: one / 100 per connection",
     [("starttls-64", "server_cpu_ms_per_message"), ("reuse-64", "server_cpu_ms_per_message")]),
    ("MB/s, messages of 1 MiB, 4 clients", [("mib1-4", "mb_per_s")]),
    ("ms for one message of 25 MiB", [("mib25-1", "message_ms")]),
    ("KiB that the server grows by meanwhile", [("mib25-1", "growth_kib")]),
    ("nobody else is there", honest("flood-0")),
    ("32 guess passwords, all from one address", honest("guess-32")),
    ("32 guess passwords, from 60,000 addresses", honest("guess-32-many")),
    ("the same, and the honest client is at a new address each time", honest("guess-32-unseen")),
    ("32 do nothing but TLS handshakes", honest("handshake-32")),
    ("32 connect and reset", honest("reset-32")),
    ("1,000 connect and say nothing", honest("silence-1000")),
    ("32 send commands and read no answer", honest("commands-32")),
    ("KiB per idle connection: 1,000 of them / 10,000", [("idle-1000", "kib_per_connection"), ("idle-10000", "kib_per_connection")]),
]

# Other programs may take so much of the machine: beyond that, figures depend on who was lucky.
QUIET_CORES = 0.3

# What the chart shows: title, unit, scenario and key.
PANELS = [
    ("One message per connection, 64 clients", "messages/s", "starttls-64", "messages_per_s"),
    ("100 messages per connection, 64 clients", "messages/s", "reuse-64", "messages_per_s"),
    ("100 per connection, pipelining, 16 clients", "messages/s", "pipelining-16", "messages_per_s"),
    ("Messages of 1 MiB, 4 clients", "MB/s", "mib1-4", "mb_per_s"),
]


def runs(data, scenario, server):
    return data["scenarios"].get(scenario, {}).get(server, [])


def median(data, scenario, server, key):
    values = []
    for value in runs(data, scenario, server):
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, (int, float)):
            values.append(value)
    return statistics.median(values) if values else None


def figure(value):
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def syncs(data, server, clients):
    return data["syncs"].get(server, {}).get(str(clients), {}).get("per_message")


def unsynced(data, server):
    """Alone, a client's message cannot share its sync with others: less than one is an answer without it."""
    alone = syncs(data, server, 1)
    return alone is not None and alone < 0.9


def footnote(data):
    return "* answers 250 before the message is synced" if any(unsynced(data, server) for server in data["servers"]) else ""


def name(data, server):
    return server + ("*" if unsynced(data, server) else "")


def failures(data, server):
    """Messages and connections that failed, over all runs, and what else went wrong."""
    count = 0
    for by_server in data["scenarios"].values():
        for run in by_server.get(server, []):
            count += 1 if "error" in run else sum(run["errors"].values()) if "errors" in run else 0
    return count


def table(data):
    servers = list(data["servers"])
    rows = [["", *(name(data, server) for server in servers)], ["---", *("---:" for _ in servers)]]
    if data["syncs"]:
        cells = (" / ".join(figure(syncs(data, server, clients)) for clients in (1, 16, 64)) for server in servers)
        rows.append(["syncs per message, 100 per connection: 1 / 16 / 64 clients", *cells])
    for text, figures in ROWS:
        present = [(scenario, key) for scenario, key in figures if scenario in data["scenarios"]]
        if present:
            cells = (" / ".join(figure(median(data, scenario, server, key)) for scenario, key in figures) for server in servers)
            rows.append([text, *cells])
    rows.append(["connections or messages that failed, of all runs", *(figure(failures(data, server)) for server in servers)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *describe(data)])


def describe(data):
    """Where, when and of what: one paragraph, wrapped by sentences."""
    machine, method = data["machine"], data["method"]
    lines = []
    if footnote(data):
        lines += [footnote(data).replace("*", "\\*", 1) + ".", ""]
    lines.append(f"{data['date']}, gatepost at {data['commit']}. {machine['cores']} cores ({machine['processor']}), shared with the load generator;")
    lines.append(f"{machine['memory_gib']} GiB, {machine['kernel']}, {machine['file_system']}; one sync of 4 KiB takes {machine['disk_sync_ms']} ms.")
    rates = any("messages_per_s" in run for by_server in data["scenarios"].values() for each in by_server.values() for run in each)
    warm_up = f" after {method['warm_up']:g} s of warm-up" if rates else ""
    lines.append(f"Medians of {method['repetitions']}, {method['seconds']:g} s each{warm_up}.")
    versions = (f"{server['version']} ({server['hash']})" for server in data["servers"].values())
    lines.append(f"{'; '.join(versions)}.")
    other = [run["other_cores"] for by_server in data["scenarios"].values() for each in by_server.values() for run in each if "other_cores" in run]
    if other and statistics.median(other) > QUIET_CORES:
        lines[:0] = ["**This machine was too busy for its figures to compare servers:** see the last line.", ""]
    if other:
        lines.append(f"Other programs took {statistics.median(other):.2f} cores meanwhile (median; at most {max(other):.2f}).")
    return lines


# ------------------------------------------------------------------------------------------------------- the chart

PANEL_WIDTH, GAP, EDGE = 368, 24, 16
WIDTH = 2 * PANEL_WIDTH + GAP + 2 * EDGE
LABEL_WIDTH, VALUE_WIDTH = 84, 62
TITLE_HEIGHT, BAR_HEIGHT, BAR_STEP = 34, 16, 22
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 }
  .ground { fill: #ffffff }
  .unit, .note { fill: #59636e }
  .label { text-anchor: end }
  .own { fill: #0969da }
  .peer { fill: #8c959f }
  .unsynced { fill: none; stroke: #8c959f; stroke-dasharray: 3 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .ground { fill: #0d1117 }
    .unit, .note { fill: #9198a1 }
    .own { fill: #4493f8 }
    .peer { fill: #6e7681 }
    .unsynced { stroke: #9198a1 }
  }
""".strip("\n")


def svg(data):
    panels = [panel for panel in PANELS if panel[2] in data["scenarios"]]
    panel_height = TITLE_HEIGHT + BAR_STEP * len(data["servers"]) + GAP
    rows = (len(panels) + 1) // 2
    note = footnote(data)
    height = rows * panel_height + (GAP if note else 0) + EDGE
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        f"<title>gatepost beside other submission servers, {data['date']}; longer is better</title>",
        f"<style>\n{STYLE}\n</style>",
        # A ground of its own: a page can be dark where the reader's system is light.
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>',
    ]
    for place, panel in enumerate(panels):
        x, y = EDGE + (place % 2) * (PANEL_WIDTH + GAP), EDGE // 2 + (place // 2) * panel_height
        lines += [f'<g transform="translate({x} {y})">', *bars(data, *panel), "</g>"]
    if note:
        lines.append(f'<text class="note" x="{EDGE}" y="{height - EDGE}">{html.escape(note)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def bars(data, title, unit, scenario, key):
    """One panel, with a scale of its own: servers are compared within it, not across."""
    yield f'<text class="title" x="0" y="18">{html.escape(title)}<tspan class="unit" font-weight="400">, {unit}</tspan></text>'
    values = {server: median(data, scenario, server, key) for server in data["servers"]}
    longest = max((value for value in values.values() if value), default=1)
    for place, (server, value) in enumerate(values.items()):
        y = TITLE_HEIGHT + place * BAR_STEP
        length = (value or 0) / longest * (PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH)
        kind = "own" if server == "gatepost" else "unsynced" if unsynced(data, server) else "peer"
        yield f'<text class="label" x="{LABEL_WIDTH - 8}" y="{y + 12}">{html.escape(name(data, server))}</text>'
        yield f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{y}" width="{max(length, 1):.1f}" height="{BAR_HEIGHT}" rx="2"/>'
        yield f'<text x="{LABEL_WIDTH + max(length, 1) + 6:.1f}" y="{y + 12}">{figure(value)}</text>'


def with_table(document, data):
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"error: the document has no lines `{BEGIN}` and `{END}`")
    return f"{before}{begin}\n\n{table(data)}\n\n{end}{after}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the files are up to date")
    parser.add_argument("figures", type=pathlib.Path)
    args = parser.parse_args()
    data = json.loads(args.figures.read_text())
    document = args.figures.with_suffix(".md")
    made = {document: with_table(document.read_text(), data)}
    if any(scenario in data["scenarios"] for _, _, scenario, _ in PANELS):
        made[args.figures.with_suffix(".svg")] = svg(data)
    for path, text in made.items():
        if not args.check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.exit(f"error: {path} does not show {args.figures}: run `benches/compare/chart.py {args.figures}`")


if __name__ == "__main__":
    main()
