package svlogd

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/internal/tai64n"
	"github.com/cmgr/cmgr/runners/runit/djb"
)

// maxOut is from how many bytes on a directory writes before all of a chunk of input is in.
const maxOut = 256 << 10

// A dir is one log directory.
type dir struct {
	s    *server
	name string // as it was given

	fd      int // the directory; -1: not open
	lock    int
	current int
	size    uint64 // of current
	text    string // of config
	config
	due time.Time // when current gets too old, if age is set
	job *job      // the processor that is running or to be run again; stays when the directory is reopened

	selected bool   // the line that is being read belongs here
	out      []byte // to be written to current
	skip     int    // bytes of out that are there already
	place
}

// hold opens the directory and locks it.
func (d *dir) hold() (what string, err error) {
	// What can be opened for reading but is no directory fails only when one changes to it, in runit.
	if d.fd, err = unix.Openat(d.s.wd, d.name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return "unable to open log directory", err
	}
	if _, st := fileOf(d.fd); st.Mode&unix.S_IFMT != unix.S_IFDIR {
		d.release()
		return "unable to change directory", unix.ENOTDIR
	}
	if d.lock, err = openAppend(d.fd, "lock"); err == nil {
		err = unix.Flock(d.lock, unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		d.release()
	}
	return "unable to lock directory", err
}

// release is the opposite of hold, and leaves current as a kill would.
func (d *dir) release() {
	for _, fd := range []*int{&d.fd, &d.lock, &d.current} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}

// open locks the directory, reads its config and opens current. It reports false, having said why, if it cannot.
func (d *dir) open() bool {
	s := d.s
	if d.fd < 0 { // or recover holds it
		if what, err := d.hold(); err != nil {
			s.warn(what, d.name, djb.Text(err))
			return false
		}
		if d.job == nil { // or it goes on, over SIGHUP
			d.finishProcessed()
		}
	}
	fd := d.fd
	text, err := readAt(fd, "config")
	switch err {
	case nil:
		s.info("read: " + d.name + "/config")
	case unix.ENOENT:
	default:
		s.warn("unable to read config", d.name, djb.Text(err))
	}
	conf, warnings := parseConfig(text)
	for _, w := range warnings {
		s.warn(w)
	}

	var st unix.Stat_t
	err = unix.Fstatat(fd, "current", &st, 0)
	if err != nil && err != unix.ENOENT {
		s.warn("unable to stat current", d.name, djb.Text(err))
		d.release()
		return false
	}
	d.text, d.config, d.size = text, conf, 0
	d.due = time.Now().Add(d.age)
	fresh := err == unix.ENOENT
	if !fresh && st.Size > 0 && st.Mode&unix.S_IXUSR == 0 { // as a crash left it
		label := d.freeLabel()
		s.must("unable to rename current", d, func() error { return unix.Renameat(fd, "current", fd, label+".u") })
		d.prune("")
		fresh = true
	} else if !fresh {
		d.size = uint64(st.Size)
	}
	d.openCurrent("unable to open current")
	d.place = place{ino: d.ino, start: int64(d.size)}
	if fresh {
		s.info("new: " + d.name + "/current")
	} else {
		s.info("append: " + d.name + "/current")
	}
	return true
}

func (d *dir) openCurrent(what string) {
	d.s.must(what, d, func() (err error) {
		d.current, err = openAppend(d.fd, "current")
		return err
	})
	d.s.must("unable to set mode of current", d, func() error { return unix.Fchmod(d.current, 0o644) })
	f, _ := fileOf(d.current)
	d.ino = f.Ino
}

// close marks current as complete and unlocks the directory.
func (d *dir) close() {
	if d.current < 0 {
		return
	}
	d.s.info("close: " + d.name)
	d.flush()
	d.closeCurrent()
	d.release()
}

func (d *dir) closeCurrent() {
	d.s.must("unable to fsync current logfile", d, func() error {
		if err := unix.Fsync(d.current); err != unix.EINVAL { // EINVAL: there is nothing to it, as with a FIFO (fsync(2))
			return err
		}
		return nil
	})
	d.s.must("unable to set mode of current", d, func() error { return unix.Fchmod(d.current, 0o744) })
	unix.Close(d.current)
	d.current = -1
}

// begin begins a line: head is all of it or its first bytes. It reports whether (the rest of) the line belongs into the log.
func (d *dir) begin(stamp, head []byte) bool {
	if d.selected = d.fd >= 0 && d.s.count >= d.from; !d.selected {
		return false
	}
	var echo bool
	if d.selected, echo = d.judge(head); echo {
		d.s.echo = d.short(d.s.echo, stamp, head)
	}
	if !d.selected {
		return false
	}
	if d.udp != nil {
		packet := d.short(nil, stamp, head)
		if why := d.send(packet); why != 0 {
			d.out = append(append(d.out, notSent[why]...), packet...)
		}
		if d.udpOnly {
			return false
		}
	}
	d.out = append(append(append(d.out, stamp...), d.prefix...), head...)
	return true
}

// send sends a line by UDP, unless that was tried before a kill. It returns the reason if it cannot.
func (d *dir) send(packet []byte) (why uint64) {
	n := d.s.count
	switch last := d.sent >> 2; {
	case n < last:
		return 0
	case n == last:
		return d.sent & 3
	}
	if d.sent&3 != 0 {
		// What could not be sent makes other bytes of its line. Who has to make them again knows that of the last one only.
		d.flush()
		d.from, d.start, d.skip = n, int64(d.size), 0
		d.s.save()
	}
	why = d.s.sendUDP(d.udp, packet)
	d.sent = n<<2 | why
	d.s.save()
	return why
}

// judge applies the rules to a line: the last that matches decides.
func (d *dir) judge(head []byte) (selected, echo bool) {
	selected = true
	for _, r := range d.rules {
		switch r.what {
		case '+', '-':
			if selected != (r.what == '+') && match(r.pattern, head) {
				selected = !selected
			}
		default:
			if echo != (r.what == 'e') && match(r.pattern, head) {
				echo = !echo
			}
		}
	}
	return selected, echo
}

// short appends a line as it goes to standard error and UDP: cut at lineMax.
func (d *dir) short(b, stamp, head []byte) []byte {
	b = append(append(append(b, stamp...), d.prefix...), head...)
	if len(head) == d.s.lineMax {
		b = append(b, "..."...)
	}
	return append(b, '\n')
}

// add goes on with a line that was begun.
func (d *dir) add(b []byte) {
	if d.fd >= 0 && d.selected && !d.udpOnly && d.s.count >= d.from {
		d.out = append(d.out, b...)
		if len(d.out) >= maxOut {
			d.flush()
		}
	}
}

// flush writes out to current, and rotates where the size says so: before a write that would make it too large, and after a
// line that ends less than lineMax before that.
func (d *dir) flush() {
	had := min(d.skip, len(d.out))
	d.skip -= had
	b := d.out[had:]
	for len(b) > 0 {
		if d.maxSize > 0 && d.size >= d.maxSize {
			d.rotate()
		}
		n, full := d.fitting(b)
		written := d.write(b[:n])
		b = b[written:]
		if full && written == n {
			d.rotate()
		}
	}
	d.out = d.out[:0]
}

// fitting is how much of b may go to current in one write, and whether current is complete after that.
func (d *dir) fitting(b []byte) (n int, full bool) {
	maxSize, lineMax := d.maxSize, uint64(d.s.lineMax)
	if maxSize == 0 {
		return len(b), false
	}
	n = int(min(uint64(len(b)), maxSize-d.size))
	if maxSize < lineMax || d.size+uint64(n) < maxSize-lineMax {
		return n, false
	}
	// Where the first byte is that, ending a line, ends the file.
	at := 0
	if from := maxSize - lineMax; d.size < from {
		at = int(from - d.size - 1)
	}
	if i := bytes.IndexByte(b[at:n], '\n'); i >= 0 {
		return at + i + 1, true
	}
	return n, false
}

// write writes some of b, at least one byte, however long that takes.
func (d *dir) write(b []byte) int {
	for {
		n, err := unix.Write(d.current, b)
		switch {
		case n > 0:
			d.size += uint64(n)
			return n
		case err == unix.EINTR:
		case err == unix.ENOSPC && d.keepFull < d.keep && d.makeRoom():
		case err == nil:
			err = io.ErrShortWrite
			fallthrough
		default:
			d.s.pause("unable to write to current", d, err)
		}
	}
}

// makeRoom removes the oldest file, if more are there than are to be kept on a full disk.
func (d *dir) makeRoom() bool {
	names := d.list("unable to open directory, want remove old logfile", "unable to read directory, want remove old logfile")
	old, n := "", uint64(0)
	for _, name := range names {
		if isOld(name) && !(d.job != nil && d.job.has(name)) {
			n++
			old = older(old, name)
		}
	}
	if n <= d.keepFull {
		return false
	}
	d.s.warn("out of disk space, delete", d.name+"/"+old)
	if err := unix.Unlinkat(d.fd, old, 0); err != nil {
		d.s.warn("unable to unlink oldest logfile", d.name, djb.Text(err))
		return false
	}
	return true
}

// rotate puts current aside if it isn't empty and opens a new one. A processor that still has the one before is waited for.
func (d *dir) rotate() {
	if d.fd < 0 {
		return
	}
	if d.job != nil {
		d.job.await()
	}
	suffix := ".s"
	if d.processor != "" {
		suffix = ".u"
	}
	if d.age > 0 && !time.Now().Before(d.due) {
		d.due = time.Now().Add(d.age)
	}
	if d.size == 0 {
		return
	}
	label := d.freeLabel()
	size := d.size
	d.closeCurrent()
	d.s.info("rename: " + d.name + "/current " + label + suffix + " " + strconv.FormatUint(size, 10))
	d.s.must("unable to rename current", d, func() error { return unix.Renameat(d.fd, "current", d.fd, label+suffix) })
	d.size = 0
	d.openCurrent("unable to create new current")
	d.start -= int64(size)
	d.s.save()
	pending := ""
	if d.processor != "" {
		pending = label + suffix
	}
	d.prune(pending)
	if pending != "" {
		d.process(label)
	}
}

// freeLabel is now's label, unless there is an old file of that name: then one that is a little later.
func (d *dir) freeLabel() string {
	for {
		label := tai64n.Format(micro(time.Now()))
		if !d.has(label+".s") && !d.has(label+".u") { // both would be one that was processed
			return label
		}
	}
}

func (d *dir) has(name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != unix.ENOENT
}

// prune removes what processors left half done, and one file, the oldest, if there are too many; not pending, which is the newest
// whatever the clock says.
func (d *dir) prune(pending string) {
	old, n := "", uint64(0)
	for _, name := range d.list("unable to open directory, want rotate", "unable to read directory") {
		switch {
		case !isOld(name):
		case name[tai64n.Size:] == ".t":
			if d.job != nil && d.job.has(name) {
				continue
			}
			if err := unix.Unlinkat(d.fd, name, 0); err != nil {
				d.s.warn("unable to unlink processor leftover", name, djb.Text(err))
			}
		default:
			n++
			if name != pending && !(d.job != nil && d.job.has(name)) {
				old = older(old, name)
			}
		}
	}
	if d.keep == 0 || n <= d.keep || old == "" {
		return
	}
	d.s.info("delete: " + d.name + "/" + old)
	if err := unix.Unlinkat(d.fd, old, 0); err != nil {
		d.s.warn("unable to unlink oldest logfile", d.name, djb.Text(err))
	}
}

// isOld tells old files by what svlogd goes by.
func isOld(name string) bool { return len(name) == tai64n.Size+2 && name[0] == '@' }

func older(a, b string) string {
	if a == "" || b < a {
		return b
	}
	return a
}

// list is the names in the directory.
func (d *dir) list(cannotOpen, cannotRead string) []string {
	var f *os.File
	d.s.must(cannotOpen, d, func() error {
		fd, err := unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			f = os.NewFile(uintptr(fd), d.name)
		}
		return err
	})
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		d.s.warn(cannotRead, d.name, djb.Text(err))
	}
	return names
}

func openAppend(dir int, name string) (int, error) {
	return unix.Openat(dir, name, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
}

func readAt(dir int, name string) (string, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}
