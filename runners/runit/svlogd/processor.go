package svlogd

import (
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cmgr/cmgr/runners/runit/djb"
)

// retryPause is from the failure of a processor to its next run. Runit makes none, and so a processor that cannot succeed takes
// all of a processor core.
const retryPause = time.Second

// A job is an old file that is being processed: LABEL.u, through sh -c command, to LABEL.t, and that to LABEL.s. It has the
// directory open by itself, for it goes on while the log directory is closed and opened again.
type job struct {
	d       *dir
	fd      int
	label   string
	command string
	done    chan unix.WaitStatus // of the process that runs; nil: none does
	retry   time.Time            // if none does
}

// process begins to process LABEL.u.
func (d *dir) process(label string) {
	j := &job{d: d, label: label, command: d.processor, fd: -1}
	d.s.must("unable to open directory for processor", d, func() (err error) {
		j.fd, err = unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	d.job = j
	j.start()
}

// has tells whether name is one of the job's files.
func (j *job) has(name string) bool { return name == j.label+".u" || name == j.label+".t" }

// start runs the processor; if that fails it is as if the processor had.
func (j *job) start() {
	j.d.s.info("processing: " + j.d.name + "/" + j.label + ".u")
	pid, what, err := j.fork()
	if err != nil {
		j.d.s.warn(what, j.d.name, djb.Text(err))
		j.failed()
		return
	}
	done := make(chan unix.WaitStatus, 1)
	j.done = done
	go func() {
		var status unix.WaitStatus
		for {
			if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
				break
			}
		}
		done <- status
		j.d.s.notify()
	}()
}

func (j *job) fork() (pid int, what string, err error) {
	files := []uintptr{0, 0, 2, ^uintptr(0), 0, 0} // ^0: closed
	for _, f := range []struct {
		at         int
		name, what string
		flags      int
	}{
		{0, j.label + ".u", "unable to open input for processor", unix.O_RDONLY},
		{1, j.label + ".t", "unable to open output for processor", unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC},
		{4, "state", "unable to open state for processor", unix.O_RDONLY | unix.O_CREAT},
		{5, "newstate", "unable to open newstate for processor", unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC},
	} {
		fd, err := unix.Openat(j.fd, f.name, f.flags|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return 0, f.what, err
		}
		defer unix.Close(fd)
		files[f.at] = uintptr(fd)
	}
	// The directory may have been renamed. Nothing else here depends on where we are.
	if err := unix.Fchdir(j.fd); err != nil {
		return 0, "unable to change directory, want processor", err
	}
	defer j.d.s.must("unable to change to initial working directory", j.d, func() error { return unix.Fchdir(j.d.s.wd) })
	pid, err = syscall.ForkExec("/bin/sh", []string{"sh", "-c", j.command}, &syscall.ProcAttr{
		Env: syscall.Environ(), Files: files,
	})
	return pid, "unable to run processor", err
}

// poll does what is to be done if the processor has ended or is to be run again.
func (j *job) poll() {
	select {
	case status := <-j.done:
		j.d.s.info("sigchild received.")
		j.ended(status)
	default:
		if j.done == nil && !time.Now().Before(j.retry) {
			j.again()
		}
	}
}

// await waits for the processor to succeed.
func (j *job) await() {
	for j.d.job == j {
		if j.done != nil {
			j.ended(<-j.done)
		} else {
			<-time.After(time.Until(j.retry))
			j.again()
		}
	}
}

func (j *job) again() {
	// A config that was changed in the meantime, for this reason maybe, is the way out: tell us by SIGHUP.
	if j.d.s.hangup.Load() { // and nobody has acted on it yet
		text, err := readAt(j.fd, "config")
		if c, _ := parseConfig(text); err == nil {
			j.command = c.processor
		}
	} else if j.d.fd >= 0 {
		j.command = j.d.processor
	}
	if j.command == "" {
		j.finish()
		return
	}
	j.start()
}

func (j *job) failed() {
	j.d.s.warn("processor failed, restart", j.d.name)
	_ = unix.Unlinkat(j.fd, j.label+".t", 0) // it may not be there
	j.done, j.retry = nil, time.Now().Add(retryPause)
}

// ended makes LABEL.s of a processor's success. Unlike runit it takes the end by a signal for a failure.
func (j *job) ended(status unix.WaitStatus) {
	s := j.d.s
	if !status.Exited() || status.ExitStatus() != 0 {
		j.failed()
		return
	}
	must := func(what string, f func() error) { s.must(what, j.d, f) }
	must("unable to rename processed", func() error { return unix.Renameat(j.fd, j.label+".t", j.fd, j.label+".s") })
	// From here on the rest is to be done, by a next svlogd if we are killed (finishProcessed).
	must("unable to set mode of processed", func() error { return unix.Fchmodat(j.fd, j.label+".s", 0o744, 0) })
	must("unable to rename state", func() error { return unix.Renameat(j.fd, "newstate", j.fd, "state") })
	if err := unix.Unlinkat(j.fd, j.label+".u", 0); err != nil {
		s.warn("unable to unlink", j.d.name+"/"+j.label+".u")
	}
	s.info("processed: " + j.d.name + "/" + j.label + ".s")
	j.finish()
}

// finishProcessed does what is left to be done if svlogd was killed when a processor had succeeded.
func (d *dir) finishProcessed() {
	names := d.list("unable to open directory, want recover", "unable to read directory")
	for _, name := range names {
		label, ok := strings.CutSuffix(name, ".u")
		if !ok || !isOld(name) || !slices.Contains(names, label+".s") {
			continue
		}
		// These may have been done.
		_ = unix.Fchmodat(d.fd, label+".s", 0o744, 0)
		_ = unix.Renameat(d.fd, "newstate", d.fd, "state")
		if err := unix.Unlinkat(d.fd, name, 0); err != nil {
			d.s.warn("unable to unlink", d.name+"/"+name)
		}
	}
}

func (j *job) finish() {
	unix.Close(j.fd)
	j.d.job = nil
}
