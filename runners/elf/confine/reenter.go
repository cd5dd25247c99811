//go:build amd64 || arm64

package confine

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reentryPC is the address of reentry, which is code for a program of its own.
func reentryPC() unsafe.Pointer

const (
	reenterEnd   = 0x646e6521 // ends reentry
	reenterBase  = 0x400000   // where the program lies in memory
	reenterTable = 0x1000     // the table, from there
)

// reentryProgram is an ELF program that writes each text of files into the file of its name, in a new user namespace and mount
// namespace, and then executes exe with its own arguments and environment, and with all capabilities, which are ambient.
func reentryProgram(files [3][2]string, exe string) []byte {
	const limit = 1024 // far more than it is
	code := unsafe.Slice((*byte)(reentryPC()), limit)
	var end [4]byte
	binary.LittleEndian.PutUint32(end[:], reenterEnd)
	n := bytes.Index(code, end[:])
	if n < 0 {
		panic("reentry has no end")
	}
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
	const headers = 64 + 56
	head := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Entry: reenterBase + headers,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	copy(head.Ident[:], elf.ELFMAG+"\x02\x01\x01") // 64 bits, little-endian, version 1
	var table, text []byte
	const tableSize = 3*24 + 3*8
	put := func(s string) {
		table = binary.LittleEndian.AppendUint64(table, uint64(reenterBase+reenterTable+tableSize+len(text)))
		text = append(append(text, s...), 0)
	}
	for _, f := range files {
		put(f[0])
		put(f[1])
		table = binary.LittleEndian.AppendUint64(table, uint64(len(f[1])))
	}
	put(string(binary.LittleEndian.AppendUint64(nil, unix.LINUX_CAPABILITY_VERSION_3))) // and pid 0
	put(strings.Repeat("\xff", 24))                                                     // effective, permitted, inheritable (capset(2))
	put(exe)
	size := uint64(reenterTable + len(table) + len(text))
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: reenterBase, Paddr: reenterBase,
		Filesz: size, Memsz: size, Align: 0x1000,
	}
	var b bytes.Buffer
	for _, part := range []any{head, segment, code[:n]} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(fmt.Sprint("reentry: ", err)) // a buffer takes all
		}
	}
	b.WriteString(strings.Repeat("\x00", reenterTable-b.Len()))
	b.Write(table)
	b.Write(text)
	return b.Bytes()
}
