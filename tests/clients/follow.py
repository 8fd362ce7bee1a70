"""Follows a stream with a client for Python, in the loop that its user writes. Prints each event as a line of JSON.

    follow.py httpx-sse|sseclient-py URL [--set]

Without --set it is the shortest loop: it comes back with the last id. With --set it does what docs/clients.md says.
"""

import json
import sys
import time

WAIT = 0.02


def tell(event_id, event_type, data):
    print(json.dumps({"id": event_id, "type": event_type, "data": data}), flush=True)


def headers(last_id):
    return {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}


def with_httpx_sse(url, careful):
    import httpx
    from httpx_sse import connect_sse

    last_id = ""
    with httpx.Client(timeout=30) as client:
        while True:
            try:
                with connect_sse(client, "GET", url, headers=headers(last_id)) as source:
                    if source.response.status_code == 204:
                        return
                    source.response.raise_for_status()
                    for event in source.iter_sse():
                        last_id = event.id or last_id
                        # An event without data is a position only.
                        if event.data or not careful:
                            tell(event.id, event.event, event.data)
            except httpx.TransportError:
                pass
            time.sleep(WAIT)


def with_sseclient(url, careful):
    import requests
    from sseclient import SSEClient

    last_id = ""
    while True:
        try:
            response = requests.get(url, headers=headers(last_id), stream=True, timeout=30)
            if response.status_code == 204:
                return
            response.raise_for_status()
            for event in SSEClient(response).events():
                last_id = event.id or last_id
                tell(event.id, event.event, event.data)
        except requests.RequestException:
            pass
        time.sleep(WAIT)


if __name__ == "__main__":
    name, url, *rest = sys.argv[1:]
    follow = {"httpx-sse": with_httpx_sse, "sseclient-py": with_sseclient}[name]
    follow(url, "--set" in rest)
