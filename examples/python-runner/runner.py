#!/usr/bin/env python3
"""A runner for components in Python: each runs in a fork of this process, so it starts in milliseconds.

    program: { runner: "python", script: "bin/hello.py", args: [ "-v" ] }     a script of the package
    program: { runner: "python", function: "jobs.nightly:main" }              a function of a module of the package

A component finds what it was given in the module `component`: moniker, url, config (bytes or None), namespace (descriptors by path),
handles (descriptors by number), outgoing (a descriptor or None). Its directory is its package. Asked to stop, it gets a SystemExit(0)
wherever it is, unless it handles SIGTERM itself. What its function returns, or it raises, is its exit.

Usage: runner.py SOCKET     listen there
       runner.py            take the socket that is descriptor 3 (LISTEN_FDS), listening or connected

The protocol is runners/remote/PROTOCOL.md; its frame internal/rpc/PROTOCOL.md. Python 3.9 or later, Linux, nothing else.
"""

import atexit
import fcntl
import importlib
import os
import platform
import runpy
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
import types

PROTOCOL = "cmgr.component.Runner"
VERSION = 1
MAX_PACKET, MAX_BODY, MAX_FDS, PATIENCE = 1 << 16, 4 << 20, 253, 10
INTERNAL, NOT_FOUND, INVALID, DENIED, UNAVAILABLE, PRECONDITION = range(6)
SELF, STOP, KILL = 1, 2, 3  # causes of an Exit
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


# The encoding of protobuf, as far as it is used.


def varint(n):
    n &= (1 << 64) - 1  # of negative numbers, two's complement
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, value):
    """One field; nothing for 0 and what is empty, unless it is a message (bytes)."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    if isinstance(value, str):
        value = value.encode(errors="replace")
        if not value:
            return b""
    return varint(number << 3 | 2) + varint(len(value)) + value


class Malformed(Exception):
    """The peer broke a rule."""


def parse(data):
    """The fields of a message: number → list of its values, integers or bytes."""
    at = 0

    def read():
        nonlocal at
        n = shift = 0
        while shift < 70:
            if at >= len(data):
                raise Malformed("what is no message")
            byte = data[at]
            at += 1
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n & (1 << 64) - 1
        raise Malformed("what is no message")

    out = {}
    while at < len(data):
        tag = read()
        kind = tag & 7
        if kind == 0:
            value = read()
        elif kind in (1, 2, 5):
            size = {1: 8, 5: 4}.get(kind) or (read() if kind == 2 else 0)
            value = data[at : at + size]
            at += size
            if at > len(data):
                raise Malformed("what is no message")
        else:
            raise Malformed("what is no message")
        out.setdefault(tag >> 3, []).append(value)
    return out


def last(message, number, default):
    """The value of a field that is there once; of the type of default."""
    value = message.get(number, [default])[-1]
    if isinstance(default, str) and isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Malformed("a text that is not UTF-8") from None
    if type(value) is not type(default):
        raise Malformed("a field of another type")
    return value


def messages(message, number):
    return [parse(m) if isinstance(m, bytes) else parse(b"\0") for m in message.get(number, [])]


def integers(message, number):
    """A repeated integer: a field each, or packed."""
    out = []
    for value in message.get(number, []):
        if isinstance(value, int):
            out.append(value)
            continue
        n = shift = 0
        for byte in value:
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                out.append(n)
                n = shift = 0
    return out


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code

    def encode(self):
        return field(1, self.code) + field(2, str(self))


# One program.


class Program:
    def __init__(self, connection, number, start):
        self.connection, self.number = connection, number
        self.stopped = self.killed = False
        self.detail, theirs = os.pipe()  # why it ended, in its words
        os.set_blocking(self.detail, False)
        sys.stdout.flush()
        sys.stderr.flush()
        # A stop that comes before the child is ready for it waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            self.pid = os.fork()
            if self.pid == 0:
                run(start, theirs)  # does not return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            os.close(theirs)
        self.pidfd = os.pidfd_open(self.pid)

    def stop(self):
        self.stopped = True
        self.signal(signal.SIGTERM)

    def kill(self):
        self.killed = True
        self.signal(signal.SIGKILL)

    def signal(self, number):
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass  # it has ended, and its exit will be told

    def exit(self):
        """What is to be told of its end; it has ended. Nothing of it is left then."""
        end_group(self.pid)
        _, status = os.waitpid(self.pid, 0)
        while in_group(self.pid):
            time.sleep(0.001)
        try:
            detail = os.read(self.detail, 1000).decode(errors="replace")
        except BlockingIOError:
            detail = ""
        os.close(self.detail)
        os.close(self.pidfd)
        by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = -1 if by else os.WEXITSTATUS(status)
        cause = KILL if self.killed and by == signal.SIGKILL else STOP if self.stopped else SELF
        return (
            field(1, self.number) + field(2, code) + field(3, by) + field(4, int(os.WCOREDUMP(status))) + field(5, cause) + field(6, detail)
        )


def end_group(leader):
    """Kill all that a program has started. It has ended and was not waited for yet, so that the number is still its own."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except OSError:
        pass  # it ended before it had a group of its own


def in_group(leader):
    """Whether a process of the group has not ended."""
    try:
        os.killpg(leader, 0)
    except OSError:
        return False
    # There is one; but it may be dead, and only not waited for by who adopted it.
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as f:
                    # PID (COMM) STATE PPID PGRP …, proc(5); the name may hold anything.
                    stat = f.read().rpartition(b")")[2].split()
            except OSError:
                continue  # ended meanwhile
            if int(stat[2]) == leader and stat[0] not in (b"Z", b"X"):
                return True
    return False


class Start:
    """A StartInfo: what a program is to get."""

    def __init__(self, body, fds):
        m = parse(body)
        self.fds, self.named = fds, set()
        self.number = last(m, 1, 0)
        self.moniker, self.url = last(m, 2, ""), last(m, 3, "")
        self.block = messages(m, 4)
        package = messages(m, 5)
        self.package = self.take(last(package[-1], 2, 0), True) if package else None
        self.namespace = {last(e, 1, ""): self.take(last(e, 2, 0), True) for e in messages(m, 6)}
        self.outgoing = self.take(last(m, 7, 0))
        self.handles = {last(h, 1, 0): self.take(last(h, 2, 0), True) for h in messages(m, 8)}
        self.config = last(m, 9, b"") if 9 in m else None
        self.stdout, self.stderr = self.take(last(m, 10, 0)), self.take(last(m, 11, 0))
        if len(self.named) != len(fds):
            raise Refused(INVALID, "a descriptor that is nothing")
        if any(n > 255 for n in self.handles) or self.number == 0:
            raise Refused(INVALID, "a number that is none")
        self.read_block()

    def take(self, place, must=False):
        if place == 0 and not must:
            return None
        if not 0 < place <= len(self.fds) or place in self.named:
            raise Refused(INVALID, f"descriptor {place} of {len(self.fds)}")
        self.named.add(place)
        return self.fds[place - 1]

    def bad(self, entry, what):
        at = ""
        for pos in messages(entry, 2):
            at = f"{last(pos, 1, '')}:{last(pos, 2, 0)}:{last(pos, 3, 0)}: "
        return Refused(INVALID, f"{at}program.{last(entry, 1, '')}: {what}")

    def read_block(self):
        self.script = self.function = ""
        self.args = []
        for entry in self.block:
            key = last(entry, 1, "")
            if key in ("script", "function"):
                if 3 not in entry:
                    raise self.bad(entry, "must be a string")
                setattr(self, key, last(entry, 3, ""))
                if key == "script":
                    self.check_script(entry)
                elif len(self.function.split(":")) != 2:
                    raise self.bad(entry, 'must be "module:function"')
            elif key == "args":
                if 4 not in entry:
                    raise self.bad(entry, "must be an array of strings")
                self.args = [last({1: [a]}, 1, "") for a in messages(entry, 4)[-1].get(1, [])]
            else:
                raise self.bad(entry, "the python runner does not know this key; it knows script, function, args")
        if bool(self.script) == bool(self.function):
            raise Refused(INVALID, "program: the python runner needs a script or a function, one of them")

    def check_script(self, entry):
        if os.path.isabs(self.script) or ".." in self.script.split("/"):
            raise self.bad(entry, "must be a path in the package")
        try:
            if self.package is None:
                raise FileNotFoundError
            os.stat(self.script, dir_fd=self.package)
        except OSError:
            raise self.bad(entry, f"no file {self.script} in the package") from None


def run(start, detail):
    """What the child does: become the component, and end."""
    code, why = 1, ""
    try:
        os.setsid()
        become(start, detail)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        if start.script:
            sys.argv = [start.script, *start.args]
            runpy.run_path(start.script, run_name="__main__")
            code = 0
        else:
            sys.argv = [start.function, *start.args]
            module, _, name = start.function.partition(":")
            returned = getattr(importlib.import_module(module), name)()
            code = returned if isinstance(returned, int) else 0
    except SystemExit as e:
        code = 0 if e.code is None else e.code
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            why, code = str(code), 1
    except BaseException as e:
        traceback.print_exc()
        why = traceback.format_exception_only(type(e), e)[-1].strip()
    try:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(start.detail, why.encode(errors="replace")[:1000])
    finally:
        os._exit(code & 255)


def become(start, detail):
    """Have the descriptors that the component is to find, and no others; its directory, and its module."""
    base = max(256, *(int(n) for n in os.listdir("/proc/self/fd"))) + 1

    def keep(fd):
        return None if fd is None else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, base)

    start.detail = keep(detail)
    null = os.open(os.devnull, os.O_RDWR)
    places = {0: keep(null)}
    places[1] = places[0] if start.stdout is None else keep(start.stdout)
    places[2] = places[0] if start.stderr is None else keep(start.stderr)
    places.update({n: keep(fd) for n, fd in start.handles.items()})
    namespace = {path: keep(fd) for path, fd in start.namespace.items()}
    outgoing, package = keep(start.outgoing), keep(start.package)
    os.closerange(0, base)
    for number, fd in places.items():
        os.dup2(fd, number)
    for fd in set(places.values()):
        os.close(fd)
    sys.dont_write_bytecode = True  # a package is not written to
    if package is not None:
        os.fchdir(package)
        # Not "", which is by a path: here the directory may have none.
        sys.path[0] = f"/proc/self/fd/{package}"
    component = types.ModuleType("component", "What this component was given.")
    component.moniker, component.url, component.config = start.moniker, start.url, start.config
    component.namespace, component.outgoing = namespace, outgoing
    component.handles = {n: n for n in start.handles}
    sys.modules["component"] = component


# A connection to a manager.


class Connection:
    all = set()

    def __init__(self, sock, loop):
        self.sock, self.loop = sock, loop
        sock.settimeout(PATIENCE)
        self.greeted = False
        self.last = 0  # request
        self.programs = {}
        self.all.add(self)
        loop.register(sock, selectors.EVENT_READ, self.readable)

    def send(self, kind, message):
        try:
            self.sock.send(field(kind, message))
        except OSError:
            pass  # the manager has gone: reading says so

    def readable(self):
        """Take one packet."""
        try:
            data, fds, flags, _ = socket.recv_fds(self.sock, MAX_PACKET, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return self.close()
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise Malformed("a packet that is too long")
            if not data:
                return self.close()
            self.packet(parse(data), fds)
        except Malformed as e:
            self.send(3, Refused(INVALID, f"sends {e}").encode())
            self.close()
        finally:
            for fd in fds:
                os.close(fd)

    def packet(self, packet, fds):
        for kind, handle in ((1, self.hello), (3, self.refusal), (4, self.request)):
            if kind in packet:
                return handle(messages(packet, kind)[-1], fds)
        # Else an answer, an event, a cancellation (all is answered at once here), or what this version does not know.

    def hello(self, m, _):
        if last(m, 1, "") != PROTOCOL:
            raise Malformed(f"a hello for another protocol; this is {PROTOCOL}")
        if VERSION not in integers(m, 2):
            raise Malformed(f"no version that this runner speaks; it speaks {VERSION}")
        self.greeted = True
        self.send(2, field(1, VERSION))

    def refusal(self, m, _):
        print(f"runner: the manager refuses to go on: {last(m, 2, '')}", file=sys.stderr)
        self.close()

    def request(self, m, fds):
        number, method = last(m, 1, 0), last(m, 2, "")
        if not self.greeted or number <= self.last:
            raise Malformed(f"request {number} out of turn")
        self.last = number
        body = last(m, 3, b"")
        if long := last(m, 4, 0):
            body, fds = long_body(long, fds), fds[1:]
        handle = {"Start": self.start, "Stop": self.order(Program.stop), "Kill": self.order(Program.kill)}.get(method)
        answer = field(1, number)
        try:
            if handle:
                handle(body, fds)
            else:
                answer += field(5, 1)
        except Refused as e:
            answer += field(4, e.encode())
        except OSError as e:
            answer += field(4, Refused(UNAVAILABLE, str(e)).encode())
        self.send(5, answer)

    def start(self, body, fds):
        start = Start(body, fds)
        if start.number in self.programs:
            raise Refused(INVALID, "another program has its number")
        p = Program(self, start.number, start)
        self.programs[p.number] = p
        self.loop.register(p.pidfd, selectors.EVENT_READ, lambda: self.ended(p))
        details = {"Process ID": str(p.pid), "Python": platform.python_version()}
        encoded = b"".join(field(2, field(1, key) + field(2, value)) for key, value in details.items())
        self.send(6, field(1, "Diagnostics") + field(2, field(1, p.number) + encoded))

    def order(self, do):
        def handle(body, _):
            p = self.programs.get(last(parse(body), 1, 0))
            if p is None:
                raise Refused(NOT_FOUND, "no such program")
            do(p)

        return handle

    def ended(self, p):
        self.loop.unregister(p.pidfd)
        del self.programs[p.number]
        self.send(6, field(1, "Exit") + field(2, p.exit()))

    def close(self):
        """End all programs of the connection, and the connection."""
        self.all.discard(self)
        self.loop.unregister(self.sock)
        self.sock.close()
        for p in list(self.programs.values()):
            p.kill()
            self.loop.unregister(p.pidfd)
            p.exit()
        self.programs.clear()


def long_body(size, fds):
    if not fds or size > MAX_BODY:
        raise Malformed("a long body without its descriptor, or too long")
    try:
        sealed = fcntl.fcntl(fds[0], fcntl.F_GET_SEALS) & SEALS == SEALS
    except OSError:
        sealed = False
    if not sealed:
        raise Malformed("a long body that is no sealed memfd")
    body = b""
    while len(body) < size:
        more = os.pread(fds[0], size - len(body), len(body))
        if not more:
            raise Malformed("a long body that is shorter than said")
        body += more
    return body


def main(args):
    if args:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.bind(args[0])
        sock.listen()
    else:
        sock = socket.socket(fileno=3)
    loop = selectors.DefaultSelector()
    connected = not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if connected:
        Connection(sock, loop)
    else:
        loop.register(sock, selectors.EVENT_READ, lambda: Connection(sock.accept()[0], loop))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while loop.get_map():
            for key, _ in loop.select():
                if loop.get_map().get(key.fd) == key:  # else it was closed by one before it
                    key.data()
    finally:
        for connection in list(Connection.all):
            connection.close()


if __name__ == "__main__":
    main(sys.argv[1:])
