package e2e

import (
	"strings"
	"testing"

	"github.com/cmgr/cmgr/internal/needs"
)

// A component that provides a dictionary, with nothing but what runtime/host/PROTOCOL.md and internal/rpc/PROTOCOL.md say: "upper" and
// "lower", and "later" once somebody has used one of them.
const phrasebook = `#!/usr/bin/env python3
import socket, threading
def varint(n):
    out = b""
    while n > 127: out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])
def field(n, v): return varint(n << 3) + varint(v) if isinstance(v, int) else varint(n << 3 | 2) + varint(len(v)) + v
def fields(b):
    def number():
        nonlocal at
        n = shift = 0
        while True:
            c = b[at]; at += 1
            n |= (c & 127) << shift; shift += 7
            if c < 128: return n
    at, got = 0, {}
    while at < len(b):
        tag = number()
        if tag & 7 == 0: value = number()
        else:
            n = number(); value = b[at:at + n]; at += n
        got.setdefault(tag >> 3, value)
    return got
words = {b"upper": bytes.upper, b"lower": bytes.lower}
def talk(c, convert):
    c.sendall(convert(c.makefile("rb").readline())); c.close()
def serve(s):
    while True:
        packet, fds, _, _ = socket.recv_fds(s, 65536, 1)
        if not packet: return
        p = fields(packet)
        if 1 in p: s.send(field(2, field(1, 1)))
        if 4 not in p: continue
        q = fields(p[4])
        answer = field(1, q[1])
        if q[2] == b"List":
            answer += field(2, b"".join(field(1, field(1, b"protocol") + field(2, w)) for w in words))
        elif q[2] == b"Open":
            word = fields(q[3])[2]
            if word in words: threading.Thread(target=talk, args=(socket.socket(fileno=fds[0]), words[word])).start()
            else: answer += field(4, field(1, 1) + field(2, b"no word " + word))
        else: answer += field(5, 1)
        s.send(field(5, answer))
        if q[2] == b"Open" and b"later" not in words:
            words[b"later"] = lambda b: b"later\n"
            s.send(field(6, field(1, b"Changed")))
l = socket.socket(fileno=3)
while True: threading.Thread(target=serve, args=(l.accept()[0],)).start()
`

// A component that uses it.
const reader = `#!/usr/bin/env python3
import os, socket, time
ns = os.environ.get("CMGR_NAMESPACE", "")
def say(at, text):
    s = socket.socket(socket.AF_UNIX); s.connect(ns + at)
    try: s.sendall(text + b"\n")
    except BrokenPipeError: pass
    return s.makefile("rb").read().decode().strip()
print("finds", sorted(os.listdir(ns + "/words")), flush=True)
print("hears", say("/words/upper", b"Shout"), say("/svc/quiet", b"Whisper"), say("/svc/none", b"x") or "nothing", flush=True)
while "later" not in os.listdir(ns + "/words"): time.sleep(0.01)
print("hears", say("/words/later", b""), flush=True)
`

func TestDictionaryOfAProgram(t *testing.T) { testDictionary(t) }

func TestDictionaryOfAProgramUnconfined(t *testing.T) { testDictionary(t, unconfined(t)...) }

func testDictionary(t *testing.T, args ...string) {
	needs.Tool(t, "python3")
	dir := write(t, map[string]string{
		"root.cml": `{
			children: [ { name: "book", url: "book.cml" }, { name: "reader", url: "reader.cml" } ],
			offer: [
				{ dictionary: "words", from: "#book", to: "#reader" },
				{ protocol: "lower", from: "#book/words", as: "quiet", to: "#reader" },
			],
		}`,
		"book.cml": `{ program: { runner: "elf", binary: "bin/book" },
			capabilities: [ { dictionary: "words", path: "/svc/words" } ], expose: [ { dictionary: "words", from: "self" } ] }`,
		"reader.cml": `{ program: { runner: "elf", binary: "bin/reader" }, use: [
			{ dictionary: "words", path: "/words" }, { protocol: "quiet" }, { protocol: "none", from: "parent/words" } ] }`,
		"bin/book": phrasebook, "bin/reader": reader,
	})
	r := run(t, dir, append(args, "--stay")...)
	r.up()
	r.must("start", "/reader")
	for _, want := range []string{"finds ['lower', 'upper']", "hears SHOUT whisper nothing", "hears later"} {
		r.until(want, func() bool { return strings.Contains(r.out(), "/reader | "+want+"\n") })
	}
	r.until("the log, which says what there is not", func() bool { return strings.Contains(r.must("logs", "/reader"), "no word none") })
	r.stop()
}
