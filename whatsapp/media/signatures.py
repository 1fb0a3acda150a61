"""How programs begin, and what they are called. Pure."""

from __future__ import annotations

from pathlib import PurePosixPath

_PROGRAMS = (
    b"\x7fELF",
    b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe",  # Mach-O
    b"\xca\xfe\xba\xbe",  # Mach-O for several machines, and Java classes
    b"dex\n", b"\x00asm", b"!<arch>\n", b"L\x00\x00\x00\x01\x14\x02\x00",  # Android, WebAssembly, deb, Windows links
)  # fmt: skip
_NOT_SHEBANGS = (b"#!AMR\n", b"#!AMR-WB\n")
# What a double click runs on some machine, scripts included; and packages that install.
_RUNNING = """
    apk app appimage appref-ms bash bat cmd com command cpl csh deb desktop dex dll dmg dylib elf exe fish gadget hta
    inf ins ipa iso img jar js jse ksh lnk lua mjs msc msi msix msp mst ocx ops osx out pif pkg php pl ps1 psd1 psm1 py
    pyc pyw rb reg rgs rpm run scf scr sct settingcontent-ms sh so sys url vb vbe vbs vbscript vhd vhdx vxd ws wsc wsf
    wsh xll zsh"""
RUNNING = frozenset(_RUNNING.split())


def is_executable(head: bytes) -> bool:
    """Whether a file that begins so is a program or a script for some machine."""
    if head.startswith(_PROGRAMS):
        return True
    if head.startswith((b"MZ", b"ZM")):
        return b"\0" in head or len(head) < 64  # else it is text that happens to begin so
    start = head.removeprefix(b"\xef\xbb\xbf")
    return start.startswith(b"#!") and not start.startswith(_NOT_SHEBANGS)


def is_running_name(name: str) -> bool:
    """Whether a name ends as those of programs do. Blanks and dots at the end are not part of it on Windows."""
    return PurePosixPath(name.replace("\\", "/").rstrip(". ")).suffix[1:].lower() in RUNNING
