"""asv's web report of the results that are here, readable without a network.

    python asv_benchmarks/report.py [--build] [--port 8000]

asv's page takes its scripts from three servers. `page/package-lock.json` lists the same files as npm packages
with their digests: npm fetches them once, into the environment that runs this, and they are copied beside the
page. `page/report.css` mends what asv's own style does not foresee: narrow windows and long names.
"""

import argparse
import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE / "page"
PACKAGES = Path(sys.prefix) / "asv-report"  # they go with the environment
# where asv's page has them, without the version and `min`, and which file of which package that is
FILES = {
    "jquery.js": "jquery/dist/jquery.min.js",
    "jquery.flot.js": "flot/jquery.flot.js",
    "jquery.flot.time.js": "flot/jquery.flot.time.js",
    "jquery.flot.selection.js": "flot/jquery.flot.selection.js",
    "jquery.flot.categories.js": "flot/jquery.flot.categories.js",
    "jquery.flot.orderBars.js": "flot-orderbars/js/jquery.flot.orderBars.js",
    "stupidtable.js": "stupid-table-plugin/stupidtable.min.js",
    "md5.js": "blueimp-md5/js/md5.min.js",
    "bootstrap.js": "bootstrap/dist/js/bootstrap.min.js",
    "bootstrap.css": "bootstrap/dist/css/bootstrap.min.css",
}
LINK = re.compile(r'(?P<name>src|href)="https://[^"]*/(?P<file>[^"/]+)"(?= (?:integrity|crossorigin))')
COMMITS = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Commits</title><link href="swallow.ico" rel="icon"/><link href="report.css" rel="stylesheet"/>
<body class="commits">
{}
</body></html>
"""
GUARDS = re.compile(r' (?:integrity|crossorigin|referrerpolicy)="[^"]*"')


def fetch() -> Path:
    """The folder of the npm packages, fetched if this lock has not been."""
    folder = PACKAGES / "node_modules"
    lock = "package-lock.json"
    if (folder / ".complete").exists() and (PACKAGES / lock).read_bytes() == (PAGE / lock).read_bytes():
        return folder
    if not shutil.which("npm"):
        raise SystemExit("the report needs npm to fetch six small packages; on Debian: apt install npm")
    PACKAGES.mkdir(exist_ok=True)
    for name in ("package.json", lock):
        shutil.copy(PAGE / name, PACKAGES)
    done = subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
                          cwd=PACKAGES, capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.strip()), "no reason given")
        raise SystemExit(f"the report needs six packages, which npm could not fetch: {reason}")
    (folder / ".complete").touch()
    return folder


def localize(text: str) -> tuple[str, list[str]]:
    """asv's page with every file from elsewhere replaced by ours, and the files of packages it needs."""
    needed = []

    def replace(link: re.Match) -> str:
        name = re.sub(r"-[\d.]+(?=\.)|\.min(?=\.)", "", link["file"])
        if name not in FILES:
            raise SystemExit(f"this asv loads {link[0]}, of which asv_benchmarks/report.py has no copy")
        needed.append(FILES[name])
        return f'{link["name"]}="vendor/{FILES[name]}"'

    text = GUARDS.sub("", LINK.sub(replace, text))
    return text.replace("</head>", '  <link href="report.css" rel="stylesheet"/>\n  </head>'), needed


def build(home: Path = HERE) -> Path:
    """Publish by the asv.conf.json in `home`, and make the page whole; the folder that it stands in."""
    packages = fetch()
    # the second: what the suite measures today, for asv draws the results of these benchmarks
    for arguments in (["machine", "--yes"], ["run", "--python=same", "--bench=just-discover"],
                      ["publish", "--no-pull"]):
        done = subprocess.run([sys.executable, "-m", "asv", *arguments], cwd=home, text=True,
                              capture_output=True)
        if done.returncode:
            raise SystemExit(f"asv {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    html = home / "html"
    text, needed = localize((html / "index.html").read_text(encoding="utf-8"))
    (html / "index.html").write_text(text, encoding="utf-8")
    for file in needed:
        (html / "vendor" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(packages / file, html / "vendor" / file)
    shutil.copy(PAGE / "report.css", html)
    (html / "commits.html").write_text(commits(home), encoding="utf-8")
    return html


def commits(home: Path) -> str:
    """What asv's links to commits lead to: a page of all that are on main."""
    log = subprocess.run(["git", "log", "-z", "--first-parent", "--format=%H%n%as%n%s%n%b", "main"], cwd=home,
                         check=True, encoding="utf-8", stdout=subprocess.PIPE).stdout
    length, parts = json.loads((home / "asv.conf.json").read_text())["hash_length"], []
    for commit in log.removesuffix("\0").split("\0"):
        name, day, subject, body = escape(commit).split("\n", 3)
        parts.append(f'<article id="{name[:length]}"><h2>{subject}</h2><p>{day}, {name}</p>'
                     f"<pre>{body.strip()}</pre></article>")
    return COMMITS.format("\n".join(parts))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def serve(folder: Path, port: int) -> None:
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/ shows the report until Ctrl-C", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--build", action="store_true", help="only build it")
    parser.add_argument("--port", type=int, default=0, help="of the loopback address (default: a free one)")
    options = parser.parse_args()
    folder = build()
    print(f"built {folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder}")
    if not json.loads((folder / "index.json").read_text())["graph_param_list"]:
        print("it is empty: no commit of main has results here; `make history` takes some")
    if not options.build:
        serve(folder, options.port)


if __name__ == "__main__":
    main()
