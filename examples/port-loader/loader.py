#!/usr/bin/env python3
"""A port program: serves the files below argv[1]. The process stays (packet4): before each message stands its length in 4 bytes."""
import os, struct, sys

root = os.path.realpath(sys.argv[1])
while head := sys.stdin.buffer.read(4):
    request = sys.stdin.buffer.read(struct.unpack(">I", head)[0])
    path = os.path.realpath(root + "/" + os.fsdecode(request[1:]))
    if path.startswith(root + "/") and os.path.isfile(path):
        with open(path, "rb") as f:
            answer = b"y" + f.read()
    else:
        answer = b"zno " + request[1:]
    sys.stdout.buffer.write(struct.pack(">I", len(answer)) + answer)
    sys.stdout.buffer.flush()
