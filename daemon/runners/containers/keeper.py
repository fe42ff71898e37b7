"""The keeper: a tiny program that runs in a container of its own beside each job's.

It owns the job's hard end. The job's container lives in the keeper's process
namespace, so when the keeper ends, the kernel kills everything in it: neither the
daemon nor the container engine has to be there for that. And it keeps the job's
`/output` and `/tmp`, which lie in memory, until they were read: they go with the
last container that has them.

The program asks the kernel to clean up after dead children (SIGCHLD ignored),
sleeps, and exits. A model server has a keeper too, which waits for the end of its
standard input instead: the daemon holds that open, so what it serves with ends with
it, however it ends. The program needs no C library and no image of anybody's, so its few
instructions are written out here, for the two kinds of processor that have GPUs.
"""

from __future__ import annotations

import struct

from daemon.runners.containers.spec import tar_of

PATH = "/keeper"
_LOADED_AT = 0x400000
_HEADERS = 64 + 56
# struct sigaction { handler = SIG_IGN; flags; restorer; mask }
_IGNORE = struct.pack("<4Q", 1, 0, 0, 0)


def program(architecture: str, seconds: int | None) -> bytes:
    """An ELF program that ends after this time; None: when its standard input ends.

    `architecture`: as the engine reports it. Raises KeyError for an unknown processor.
    """
    machine, code = _CODES[architecture]
    size = len(code(0, None if seconds is None else 0))
    # The operands of the instructions lie behind them.
    if seconds is None:
        return _elf(machine, code(size, None) + _IGNORE)
    body = code(size, size + len(_IGNORE)) + _IGNORE + struct.pack("<qq", seconds, 0)
    return _elf(machine, body)


def archive(architecture: str, seconds: int | None) -> bytes:
    """The program as the tar that a container takes it by."""
    return tar_of({PATH.lstrip("/"): program(architecture, seconds)})


def _elf(machine: int, body: bytes) -> bytes:
    size = _HEADERS + len(body)
    identity = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)
    entry = _LOADED_AT + _HEADERS
    header = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    # One segment: readable and executable, never writable.
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOADED_AT, _LOADED_AT, size, size, 0x1000)
    return identity + header + segment + body


def _x86_64(action_at: int, time_at: int | None) -> bytes:
    code = b"\xb8" + struct.pack("<I", 13)  # mov eax, rt_sigaction
    code += b"\xbf" + struct.pack("<I", 17)  # mov edi, SIGCHLD
    code += b"\x48\x8d\x35" + struct.pack("<i", action_at - len(code) - 7)  # lea rsi, [action]
    code += b"\x31\xd2"  # xor edx, edx
    code += b"\x41\xba" + struct.pack("<I", 8)  # mov r10d, 8
    code += b"\x0f\x05"  # syscall
    if time_at is None:
        code += b"\x31\xc0\x31\xff"  # xor eax, eax (read); xor edi, edi (standard input)
        code += b"\x48\x8d\x74\x24\xc0"  # lea rsi, [rsp - 64]
        code += b"\xba" + struct.pack("<I", 1)  # mov edx, 1
    else:
        code += b"\xb8" + struct.pack("<I", 35)  # mov eax, nanosleep
        code += b"\x48\x8d\x3d" + struct.pack("<i", time_at - len(code) - 7)  # lea rdi, [time]
        code += b"\x31\xf6"  # xor esi, esi
    code += b"\x0f\x05"  # syscall
    code += b"\xb8" + struct.pack("<I", 231)  # mov eax, exit_group
    code += b"\x31\xff"  # xor edi, edi
    return code + b"\x0f\x05"  # syscall


def _aarch64(action_at: int, time_at: int | None) -> bytes:
    def mov(register: int, value: int) -> int:
        return 0xD2800000 | value << 5 | register

    def adr(register: int, offset: int) -> int:
        return 0x10000000 | (offset & 3) << 29 | (offset >> 2 & 0x7FFFF) << 5 | register

    svc = 0xD4000001
    words = [
        mov(8, 134),  # rt_sigaction
        mov(0, 17),  # SIGCHLD
        adr(1, action_at - 2 * 4),
        mov(2, 0),
        mov(3, 8),
        svc,
    ]
    if time_at is None:
        # read, from standard input, into 64 bytes below the stack's end, one byte
        words += [mov(8, 63), mov(0, 0), 0xD10103E1, mov(2, 1), svc]
    else:
        words += [mov(8, 101), adr(0, time_at - 7 * 4), mov(1, 0), svc]  # nanosleep
    words += [mov(8, 94), mov(0, 0), svc]  # exit_group
    if len(words) % 2:
        words.append(0xD503201F)  # nop: what follows is aligned to eight bytes
    return struct.pack(f"<{len(words)}I", *words)


_CODES = {
    "x86_64": (62, _x86_64),
    "amd64": (62, _x86_64),
    "aarch64": (183, _aarch64),
    "arm64": (183, _aarch64),
}
ARCHITECTURES = frozenset(_CODES)
