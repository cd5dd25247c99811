package svlogd

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A journal is where svlogd keeps what it has read until that is in the logs, so that a kill -9 has nothing lost and nothing
// written twice: a part of the lock file of the first directory that can have it, mapped into our memory. What is stored there
// is the file's at once, whoever ends us; that costs no system call, and nobody reads it but an svlogd that finds it at its
// start. After a loss of power it is worth nothing, but then the pipe is gone, too.
//
//   - What a read brought is there before read(2) has returned, but how much that was is not. From a pipe (or socket) that we
//     alone read, exactly what it is known to hold (FIONREAD) comes, or nothing; so that number is noted before, and whether it
//     came is seen by marks that the read overwrites (expect, arrived).
//   - How much of it each directory has is told by the size of its current: what is noted is only which file that is, and what
//     size it had when it had nothing of it (place). So a write needs no note, before or after it, and may be cut anywhere.
//   - The beginning of a line whose end has not been read, with its stamp.
//
// From these, and how we were called and configured, the next svlogd makes the same bytes once more, and leaves out what is in
// the log already (replay). Notes are made in two places in turn, and count when their number does (save).
type journal struct {
	in    *dir
	fd    int   // its lock file
	at    int64 // in that
	mem   []byte
	how   how
	dirs  []*dir // those of how; nil: not open
	slots [2][]byte
	buf   []byte // of the input
}

// how is what a journal is read by. It stays as it is.
type how struct {
	ID       int64 // when it was made, in ns since the system was
	Replaces []int64
	Boot     string
	In       file
	Stamps   int
	LineMax  int
	Table    []byte `json:",omitempty"`
	Buffer   int
	Dirs     []configured
}

type configured struct {
	file
	Config []byte // as it was: no text of JSON's, which is UTF-8
}

type file struct{ Dev, Ino uint64 }

func fileOf(fd int) (f file, st unix.Stat_t) {
	if err := unix.Fstat(fd, &st); err == nil {
		f = file{st.Dev, st.Ino}
	}
	return f, st
}

// A place is how far a directory is with the input in the buffer.
type place struct {
	ino   uint64 // of current
	start int64  // its size less what it (and those before it) got of what was made of the lines from number from on
	from  uint64 // lines are counted from 1 on as they are handed out; 0 is the rest of an earlier one
	sent  uint64 // the last that was sent by UDP <<2, and what became of it: an index of notSent
}

// A journal's memory: two words, the text of its how after a word that is its length, the slots, and from a page's beginning on
// the buffer. The file begins with a page of its own: magic, and where the journal is. A new one is made beside the old.
const (
	genAt      = 0 // the slot gen&1 counts
	wantAt     = 8 // how many bytes are being read if the buffer is empty
	howAt      = 24
	magic      = "svlogd 1"
	maxJournal = 4 << 20 // with -l and -b there may be need for more: then it is done without
)

// mark is what a read overwrites. It is in no text, and not even its first byte ends a line. A read that brings nothing but the
// beginning of it is lost by a kill before it returns.
const mark = "\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8"

var pageSize = os.Getpagesize()

func align(n, to int) int { return (n + to - 1) / to * to }

func (h *how) layout(text int) (slot, slotSize, buf, size int) {
	slot = align(howAt+text, 8)
	slotSize = align(8*(8+4*len(h.Dirs))+2*maxStamp+h.LineMax, 8)
	buf = align(slot+2*slotSize, pageSize)
	return slot, slotSize, buf, align(buf+h.Buffer, pageSize)
}

func (j *journal) word(at int) *uint64 { return (*uint64)(unsafe.Pointer(&j.mem[at])) }

func (j *journal) carve(text int) {
	slot, size, buf, _ := j.how.layout(text)
	j.slots = [2][]byte{j.mem[slot : slot+size : slot+size], j.mem[slot+size : slot+2*size : slot+2*size]}
	j.buf = j.mem[buf : buf+j.how.Buffer]
}

// head is where the file says its journal is; size 0: nowhere. It is an error if the file is something else.
func head(fd int) (at int64, size int, err error) {
	_, st := fileOf(fd)
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, 0, errors.New("lock is no file")
	}
	b := make([]byte, len(magic)+16)
	n, err := unix.Pread(fd, b, 0)
	switch {
	case err != nil:
		return 0, 0, err
	case n == 0 || string(b[:len(magic)]) == string(make([]byte, len(magic))): // as we make it before we say what it is
		return 0, 0, nil
	case n < len(b) || string(b[:len(magic)]) != magic:
		return 0, 0, errors.New("lock has a content")
	}
	from, length := binary.LittleEndian.Uint64(b[len(magic):]), binary.LittleEndian.Uint64(b[len(magic)+8:])
	if from%uint64(pageSize) != 0 || from == 0 || length < howAt || length > maxJournal ||
		from > uint64(st.Size) || length > uint64(st.Size)-from {
		return 0, 0, nil
	}
	return int64(from), int(length), nil
}

// newJournal makes a journal in d. It does not count before activate.
func newJournal(d *dir, h how) (*journal, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	_, _, _, size := h.layout(len(text))
	if size > maxJournal {
		return nil, unix.EFBIG
	}
	j := &journal{in: d, how: h}
	if j.fd, err = unix.Openat(d.fd, "lock", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	at, oldSize, err := head(j.fd)
	_, st := fileOf(j.fd)
	if err == nil {
		j.at = int64(pageSize)
		if oldSize > 0 && at < j.at+int64(size) {
			j.at = at + int64(align(oldSize, pageSize))
		}
		// Room that is the file's already, for a store into a mapping can't be told that a disk is full.
		if err = allocate(j.fd, j.at, size); err == nil {
			j.mem, err = unix.Mmap(j.fd, j.at, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		}
		if err != nil {
			_ = unix.Ftruncate(j.fd, st.Size)
		}
	}
	if err != nil {
		unix.Close(j.fd)
		return nil, err
	}
	binary.LittleEndian.PutUint64(j.mem[howAt-8:], uint64(len(text)))
	copy(j.mem[howAt:], text)
	*j.word(genAt), *j.word(wantAt) = 0, 0
	j.carve(len(text))
	return j, nil
}

// Magic numbers of file systems (statfs(2)) that x/sys/unix has not.
const (
	zfs      = 0x2fc12fc1
	bcachefs = 0xca451a4e
)

func allocate(fd int, at int64, size int) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	switch fs.Type {
	case unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, zfs, bcachefs: // each store may want new room, and be SIGBUS
		return unix.EOPNOTSUPP
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err == nil && uint64(at)+uint64(size) > limit.Cur {
		return unix.EFBIG // and not SIGXFSZ
	}
	err := unix.Fallocate(fd, 0, at, int64(size))
	if err != unix.EOPNOTSUPP {
		return err
	}
	n, err := unix.Pwrite(fd, make([]byte, size), at)
	if err == nil && n < size {
		err = unix.ENOSPC
	}
	return err
}

// activate makes it the one that a next svlogd finds.
func (j *journal) activate() error {
	b := binary.LittleEndian.AppendUint64([]byte(magic), uint64(j.at))
	_, err := unix.Pwrite(j.fd, binary.LittleEndian.AppendUint64(b, uint64(len(j.mem))), 0)
	return err
}

// drop removes a journal: the file is empty again, unless there is another in it. Where the directory is not ours any more it stays.
func (j *journal) drop() {
	at, size, err := head(j.fd)
	switch {
	case err != nil || j.in.fd < 0:
	case size == 0 || at == j.at:
		_ = unix.Ftruncate(j.fd, 0)
	case at < j.at:
		_ = unix.Ftruncate(j.fd, at+int64(size))
	default: // where that is not possible it stays for the time being
		_ = unix.Fallocate(j.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, j.at, int64(len(j.mem)))
	}
	j.close()
}

func (j *journal) close() {
	_ = unix.Munmap(j.mem)
	unix.Close(j.fd)
}

// openJournal opens what a killed svlogd left in a directory, if it did. What is of another boot, and so may be any mixture of
// old and new, is dropped.
func openJournal(in *dir) *journal {
	fd, err := unix.Openat(in.fd, "lock", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	j := &journal{in: in, fd: fd}
	at, size, err := head(fd)
	if err == nil && size > 0 {
		j.mem, err = unix.Mmap(fd, at, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil || size == 0 {
		unix.Close(fd)
		return nil
	}
	j.at = at
	text := binary.LittleEndian.Uint64(j.mem[howAt-8:])
	ok := text <= uint64(size-howAt) && json.Unmarshal(j.mem[howAt:howAt+text], &j.how) == nil
	if h := &j.how; ok && h.Boot == bootID() && min(h.LineMax, h.Buffer) > 0 && max(h.LineMax, h.Buffer) <= maxJournal &&
		(h.Table == nil || len(h.Table) == 256) {
		if _, _, _, n := h.layout(int(text)); n == size {
			j.carve(int(text))
			j.dirs = make([]*dir, len(h.Dirs))
			return j
		}
	}
	j.drop()
	return nil
}

// expect notes that so many bytes are being read into the buffer; 0: none any more.
func (j *journal) expect(n int) {
	for at := 0; at < n; at += pageSize {
		copy(j.buf[at:n], mark)
	}
	atomic.StoreUint64(j.word(wantAt), uint64(n))
}

// arrived is how many of the bytes that were expected came. That is all or none, but for this: the file system may have taken a
// page from us for a moment when the kernel is about to copy to it, and who is killed just then has got the pages before it (and
// some bytes of these may still be in the pipe). So there is a mark in each page.
func (j *journal) arrived() int {
	n := int(min(*j.word(wantAt), uint64(len(j.buf))))
	for at := 0; at < n; at += pageSize {
		if m := mark[:min(len(mark), n-at)]; string(j.buf[at:at+len(m)]) == m {
			return at
		}
	}
	return n
}

// notes is what a slot holds.
type notes struct {
	have   int // bytes in the buffer
	stamp  []byte
	line   line
	places []place
}

// save notes how things are.
func (s *server) save() {
	j := s.journal
	if j == nil {
		return
	}
	le := binary.LittleEndian
	gen := *j.word(genAt) + 1
	b := le.AppendUint64(j.slots[gen&1][:0], uint64(s.have))
	text := func(t []byte) { b = append(le.AppendUint64(b, uint64(len(t))), t...) }
	text(s.stamp)
	l := &s.before
	switch {
	case !l.begun:
		b = le.AppendUint64(b, 0)
	case !l.long:
		b = le.AppendUint64(b, 1)
	default:
		b = le.AppendUint64(b, 2)
	}
	if l.begun {
		text(l.stamp)
		text(l.head)
	}
	for _, d := range j.dirs {
		var p place
		if d != nil {
			p = d.place
		}
		b = le.AppendUint64(le.AppendUint64(b, p.ino), uint64(p.start))
		b = le.AppendUint64(le.AppendUint64(b, p.from), p.sent)
	}
	atomic.StoreUint64(j.word(genAt), gen)
}

// load reads what was saved. It reports false if that is nothing that makes sense.
func (j *journal) load() (n notes, ok bool) {
	b, ok := j.slots[*j.word(genAt)&1], true
	word := func() (w uint64) {
		if ok = ok && len(b) >= 8; ok {
			w, b = binary.LittleEndian.Uint64(b), b[8:]
		}
		return w
	}
	text := func() (t []byte) {
		if w := word(); ok && w <= uint64(len(b)) {
			t, b = bytes.Clone(b[:w]), b[w:]
		} else {
			ok = false
		}
		return t
	}
	have := word()
	n.stamp = text()
	if kind := word(); kind > 0 {
		n.line = line{begun: true, long: kind == 2, stamp: text(), head: text()}
	}
	for range j.how.Dirs {
		n.places = append(n.places, place{word(), int64(word()), word(), word()})
	}
	ok = ok && have <= uint64(len(j.buf)) && len(n.line.head) <= j.how.LineMax
	if n.have = int(have); have == 0 {
		n.have = j.arrived()
	}
	return n, ok
}

// keep makes the journal for the directories that are open and drops others. Where there can be none we read into memory of our
// own.
func (s *server) keep() {
	old := append(s.found, s.journal)
	h := how{Boot: bootID(), Stamps: s.stamps, LineMax: s.lineMax, Buffer: max(64<<10, s.bufMin)}
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // it is always there
	h.ID = now.Nano()
	h.In, _ = fileOf(s.in)
	if s.table != nil {
		h.Table = s.table[:]
	}
	var open []*dir
	for _, d := range s.dirs {
		if d.fd >= 0 {
			f, _ := fileOf(d.fd)
			h.Dirs = append(h.Dirs, configured{f, []byte(d.text)})
			open = append(open, d)
		}
	}
	for _, j := range old {
		if j != nil {
			h.Replaces = append(h.Replaces, j.how.ID)
		}
	}
	s.found, s.journal, s.buf = nil, nil, nil
	for _, d := range open {
		if h.Boot == "" {
			break
		}
		j, err := newJournal(d, h)
		if err == nil {
			j.dirs = open
			s.journal, s.buf = j, j.buf
			s.save()
			if err = j.activate(); err == nil {
				break
			}
			j.close()
			s.journal, s.buf = nil, nil
		}
		s.info("no journal: " + d.name + "/lock: " + err.Error())
	}
	if s.buf == nil {
		s.buf = make([]byte, h.Buffer)
	}
	for _, j := range old {
		if j != nil {
			j.drop()
		}
	}
}

// recover does what killed svlogds have left to be done in the directories, which it holds, before they are opened.
func (s *server) recover() {
	for _, d := range s.dirs {
		if _, err := d.hold(); err != nil {
			continue // it will be told
		}
		d.finishProcessed()
		if j := openJournal(d); j != nil {
			s.found = append(s.found, j)
		}
	}
	slices.SortFunc(s.found, func(a, b *journal) int { return cmp.Compare(a.how.ID, b.how.ID) })
	for i, j := range s.found {
		replaced := slices.ContainsFunc(s.found, func(by *journal) bool { return slices.Contains(by.how.Replaces, j.how.ID) })
		if !replaced {
			s.replay(j, i == len(s.found)-1)
		}
	}
	for _, d := range s.dirs {
		if d.current >= 0 {
			unix.Close(d.current) // as a kill leaves it
			d.current = -1
		}
	}
}

// replay has what is in a journal written as its svlogd would have. A line whose end it had not read is left to be continued if it
// is the last, and our input the same.
func (s *server) replay(j *journal, last bool) {
	n, ok := j.load()
	in, _ := fileOf(s.in)
	goesOn := last && in == j.how.In && j.how.LineMax <= s.lineMax // its head may be longer than ours
	if !ok || n.have == 0 && !n.line.begun {
		return
	}
	dirs, stamps, lineMax, table := s.dirs, s.stamps, s.lineMax, s.table
	s.journal, s.buf, s.dirs = j, j.buf, nil
	s.stamps, s.lineMax, s.table = j.how.Stamps, j.how.LineMax, nil
	if j.how.Table != nil {
		s.table = (*[256]byte)(j.how.Table)
	}
	s.have, s.stamp, s.before = n.have, n.stamp, n.line
	s.line.set(&s.before)
	for i, c := range j.how.Dirs {
		for _, d := range dirs {
			if f, _ := fileOf(d.fd); d.fd >= 0 && f == c.file {
				d.config, _ = parseConfig(string(c.Config))
				d.place = n.places[i]
				d.selected, _ = d.judge(n.line.head) // of a long line the log has the head
				j.dirs[i] = d
				s.dirs = append(s.dirs, d)
			}
		}
	}
	if n.have > 0 || !goesOn {
		for _, d := range s.dirs {
			d.resume(n.have > 0)
		}
		s.makeStamp()
		s.save()
		j.expect(0)
		if n.have > 0 {
			s.take(s.buf[:n.have])
		}
		if !goesOn {
			s.end()
		}
	}
	s.journal, s.buf, s.dirs, s.stamps, s.lineMax, s.table = nil, nil, dirs, stamps, lineMax, table
}

// resume opens current and finds out how much of what is in the journal is there.
func (d *dir) resume(some bool) {
	was := d.place
	d.openCurrent("unable to open current")
	_, st := fileOf(d.current)
	d.size = uint64(st.Size)
	var done int64
	if some {
		done = max(0, d.sizeOf(was.ino)-was.start)
	}
	d.skip, d.start = int(done), st.Size-done
}

// sizeOf is the size of the file ino, which is or was current; 0 if it is gone.
func (d *dir) sizeOf(ino uint64) int64 {
	if d.ino == ino {
		return int64(d.size)
	}
	// It was put aside, and we were killed before that was noted.
	for _, name := range d.list("unable to open directory, want recover", "unable to read directory") {
		var st unix.Stat_t
		if isOld(name) && unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Ino == ino {
			return st.Size
		}
	}
	return 0
}

// bootID is of this boot of the system; empty where that can't be known.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(b))
}
