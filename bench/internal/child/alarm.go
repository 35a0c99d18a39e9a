package child

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm has a goroutine sleep by the kernel's clock, to some microseconds: time.Sleep
// of less than a millisecond takes a whole one while the process has nothing else
// to do. It sleeps as one does that waits for a socket, so that other goroutines
// have its processor; in a blocking system call it would keep that, for up to
// 10 ms if all do so.
type alarm struct {
	fd   int
	file *os.File // of fd, which Fd would make blocking
	err  error    // why it last failed to wake its goroutine
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("child: timerfd: %w", err)
	}
	return &alarm{fd: fd, file: os.NewFile(uintptr(fd), "timerfd")}, nil
}

// sleep returns after d, or at once if d is not above zero. Should the alarm fail,
// it still sleeps, less exactly, and Close says so.
func (a *alarm) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	if err := a.await(d); err != nil {
		a.err = fmt.Errorf("child: timerfd: %w", err)
		time.Sleep(d)
	}
}

func (a *alarm) await(d time.Duration) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds())}
	if err := unix.TimerfdSettime(a.fd, 0, &spec, nil); err != nil {
		return err
	}
	var expired [8]byte
	_, err := a.file.Read(expired[:])
	return err
}

// Close implements io.Closer.
func (a *alarm) Close() error { return errors.Join(a.err, a.file.Close()) }
