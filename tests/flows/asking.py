"""Questions to the servers of a store."""

import json
import urllib.request


def listed(client, run_id, path=None):
    for file in client.list_artifacts(run_id, path):
        yield from listed(client, run_id, file.path) if file.is_dir else (file,)


def posted(url):
    request = urllib.request.Request(url, b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)
