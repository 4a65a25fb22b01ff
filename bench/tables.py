"""How the tables of `proxy.core.dictionary` were made: `python -m bench.tables`.

Rule: the samples are what several kinds of clients send, so that none of them is coded much worse
than with tables of its own: pages in Latin and in other scripts, the mobile SDKs, the Edge Network.
All of them are drawn from a seed; with the same libzstd the same tables come out.
Non-rule: not run by anyone but who makes a new dictionary; rows in the field need the old one.
Source: zstd's `zdict.h` (ZDICT_finalizeDictionary), which no Python library offers.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import random
from urllib.parse import quote

from bench.traffic import Traffic
from proxy.core import dictionary, headers, wire

SEED, OF_EACH = 9, 400
SCRIPTS = ((0x4E00, 0x9FFF), (0x3041, 0x3096), (0x0410, 0x044F), (0x0621, 0x064A), (0xAC00, 0xD7A3))


class Params(ctypes.Structure):
    """`ZDICT_params_t`."""

    _fields_ = (
        ("level", ctypes.c_int),
        ("log", ctypes.c_uint),
        ("number", ctypes.c_uint),
    )


def pages(seed: int, script: bool) -> list[bytes]:
    """Hits of pages; with `script`, of pages whose titles are in one that is not Latin."""
    traffic, draw = Traffic(seed), random.Random(seed)
    found = [traffic.beacon(draw.getrandbits(40)) for _ in range(OF_EACH)]
    if not script:
        return found
    for number, hit in enumerate(found):
        low, high = draw.choice(SCRIPTS)
        words = " ".join(
            "".join(chr(draw.randint(low, high)) for _ in range(draw.randint(2, 7)))
            for _ in range(draw.randint(3, 12))
        )
        found[number] = hit.replace(b"&pageName=", b"&v5=%b&pageName=" % quote(words).encode())
    return found


def apps(seed: int) -> list[bytes]:
    """Hits of the mobile SDKs: a form, with context data."""
    traffic, draw = Traffic(seed), random.Random(seed)
    return [
        b"POST /b/ss/%b/0/JAVA-4.18.2-AN/s%d HTTP/1.1\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n"
        b"User-Agent: Mozilla/5.0 (Linux; U; Android %d; en-US; %b Build/%b)\r\n\r\n"
        b"ndh=1&c.&a.&AppID=%b&TimeSinceLaunch=%d&Resolution=%dx%d&RunMode=Application&.a"
        b"&item=%b&.c&t=00%%2F00%%2F0000%%2000%%3A00%%3A00%%200%%20-60&mid=%038d&pageName=%b&ts=%d"
        % (
            *(traffic.words(2, "").encode(), draw.getrandbits(26), draw.randint(9, 16)),
            *(quote(traffic.words(2)).encode(), traffic.words(1).upper().encode()),
            *(quote(traffic.words(2)).encode(), draw.randint(1, 5000)),
            *(draw.randint(720, 1440), draw.randint(1280, 3200)),
            *(quote(traffic.words(3)).encode(), draw.getrandbits(126)),
            *(quote(traffic.words(2, "/")).encode(), draw.randint(17 * 10**8, 18 * 10**8)),
        )
        for _ in range(OF_EACH)
    ]


def events(seed: int) -> list[bytes]:
    """Hits of the Edge Network's clients: JSON."""
    traffic, draw = Traffic(seed), random.Random(seed)
    found = []
    for _ in range(OF_EACH):
        url = f"https://www.{traffic.words(2, '')}.example/{traffic.words(1)}"
        xdm = {
            "eventType": "web.webpagedetails.pageViews",
            "web": {"webPageDetails": {"URL": url, "name": traffic.words(3)}},
            "timestamp": f"2026-{draw.randint(1, 12):02d}-{draw.randint(1, 28):02d}T"
            f"{draw.randint(0, 23):02d}:{draw.randint(0, 59):02d}:{draw.random() * 60:06.3f}Z",
            "identityMap": {"ECID": [{"id": f"{draw.getrandbits(126):038d}", "primary": True}]},
            "_experience": {"analytics": {"customDimensions": {"eVars": {
                f"eVar{draw.randint(1, 200)}": traffic.words(2) for _ in range(5)
            }}}},
        }  # fmt: skip
        body = json.dumps({"events": [{"xdm": xdm}]}, separators=(",", ":"))
        stream = f"{draw.getrandbits(128):032x}"
        found.append(
            f"POST /ee/v1/collect?configId={stream}&requestId={draw.getrandbits(128):032x} HTTP/1.1"
            f"\r\nContent-Type: application/json\r\n\r\n{body}".encode()
        )
    return found


def stored(sent: bytes) -> bytes:
    """A request as a row holds it, before it is compressed."""
    request = wire.unpack(sent)
    return wire.message(request._replace(headers=headers.kept(request.headers, "")))


def tables(samples: list[bytes]) -> bytes:
    """What zstd makes of them for our text."""
    library = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
    finalize, header_size = library.ZDICT_finalizeDictionary, library.ZDICT_getDictHeaderSize
    finalize.restype = header_size.restype = ctypes.c_size_t
    text = dictionary.BEACONS
    made = ctypes.create_string_buffer(len(text) + 1024)
    sizes = (ctypes.c_size_t * len(samples))(*map(len, samples))
    length = finalize(
        *(made, ctypes.c_size_t(len(made)), text, ctypes.c_size_t(len(text))),
        *(b"".join(samples), sizes, ctypes.c_uint(len(samples))),
        Params(wire.LEVEL, 0, dictionary.NUMBER),
    )
    whole = made.raw[:length]
    header = whole[: header_size(whole, ctypes.c_size_t(length))]
    assert whole == header + text, "zstd cut the text"
    return header


def main() -> None:
    sent = [*pages(SEED, False), *pages(SEED + 1, True), *apps(SEED + 2), *events(SEED + 3)]
    made = tables([stored(one) for one in sent]).hex()
    for at in range(0, len(made), 88):
        print(f'    "{made[at : at + 88]}"')


if __name__ == "__main__":
    main()
